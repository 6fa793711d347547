"""Where a transformer keeps its parts, whatever its family calls them.

A view, not a wrapper: every door opens onto a module of the model itself, and is looked up when it is asked for, so it
sees what has become of a part: parametrised, factored, settled, or gone.  What the families call things is in
families.py, one layer in block.py.
"""

from dataclasses import dataclass

from torch import nn

from .block import Block, Slice, expand, find, join, shape
from .families import ACTIVATIONS, FAMILIES, HEADS, POOLS, Attention, Names
from .runtime.exits import Exits
from .runtime.tokens import Policy


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What stands in front of the layers; tables are plain, factored or settled."""

    word: nn.Module
    position: nn.Module | None
    token_type: nn.Module | None
    norm: nn.Module | None
    projection: nn.Module | None


@dataclass(frozen=True, eq=False)
class Stream:
    """Who reads from, adds to and normalises the residual stream, each module once.

    A reader's input and a writer's output have the stream's width.  Tied twins are all listed: cut by tensor, not by
    module.  deberta-v2's table of relative positions counts as a writer, its projections as readers, its convolution
    (nn.Conv1d) as both.
    """

    readers: tuple[nn.Module, ...]
    writers: tuple[nn.Module, ...]
    norms: tuple[nn.Module, ...]


@dataclass(frozen=True, eq=False)
class Head:
    """From the last hidden states (B, T, d), final norm included, to the answer.

    steps: each "first", "last" (the last token that is not padding), "mean", an activation ("tanh", "relu", "gelu") or
    the path of a module that is called with what came before.  answer: the linear that reads the result.
    """

    steps: list[str]
    answer: nn.Module
    answer_path: str


def family(model: nn.Module) -> Names:
    """The names of the model's family; a compressed model's are those of the class it was made from.

    Raises:
        ValueError: nobody has written them down.
    """
    own = getattr(getattr(model, "config", None), "model_type", None)
    inherited = (getattr(getattr(c, "config_class", None), "model_type", None) for c in type(model).__mro__)
    for name in (own, *inherited):
        if name in FAMILIES:
            return FAMILIES[name]
    raise ValueError(
        f"no anatomy for model_type {own!r}; known: {', '.join(FAMILIES)}; add one line to gossamer.anatomy.FAMILIES"
    )


def _base(model: nn.Module) -> str:
    prefix = getattr(model, "base_model_prefix", "")
    return prefix if prefix in model._modules else ""


def towers(model: nn.Module) -> tuple[str, ...]:
    """The paths of the towers that the model has: one, or the encoder's and the decoder's.

    Raises:
        ValueError: unknown family, or a model without the layers that its family should have.
    """
    names = family(model)
    paths = tuple(join(_base(model), tower) for tower in names.towers)
    found = tuple(path for path in paths if expand(model, join(path, names.layers)))
    if not found:
        expected = " or ".join(join(path, names.layers) for path in paths)
        raise ValueError(f"{type(model).__name__} has no layers at {expected}; pass the whole model, not a piece of it")
    return found


def loop(model: nn.Module, tower: int = 0) -> str:
    """The path, from the model, of the list of layers.

    Raises:
        ValueError: the layers lie in several lists (albert with more than one group).
    """
    paths = expand(model, join(towers(model)[tower], family(model).layers))
    if len(paths) > 1:
        lists = f"{len(paths)} lists: {', '.join(paths)}"
        raise ValueError(f"{type(model).__name__} keeps its layers in {lists}; only one list can be walked")
    return paths[0]


def layers(model: nn.Module, tower: int = 0) -> nn.ModuleList:
    """The list of layers (an nn.ModuleList, or the Stack that took its place) of the encoder or only tower."""
    found = model.get_submodule(loop(model, tower))
    assert isinstance(found, nn.ModuleList)
    return found


def blocks(model: nn.Module, tower: int | None = None) -> list[Block]:
    """The stored layers in order, also those inside a Stack: of one tower, or the encoder's and then the decoder's."""
    names, found = family(model), []
    for i, path in enumerate(towers(model)):
        stored = expand(model, join(path, names.layers, "*")) if tower in (None, i) else []
        found += [Block(model.get_submodule(p), names, i, n) for n, p in enumerate(stored)]
    return found


def embeddings(model: nn.Module, tower: int = 0) -> Embeddings:
    """The embeddings in front of a tower."""
    names, path = family(model), towers(model)[tower]
    root = model.get_submodule(path)
    word = find(root, names.word)
    assert word is not None, f"no {names.word} in {path or type(model).__name__}"
    rest = (names.position, names.token_type, names.embedding_norm, names.projection)
    return Embeddings(word, *(find(root, p) for p in rest))


def relative(model: nn.Module, tower: int = 0) -> nn.Module | None:
    """The table (buckets, heads) of relative positions that every layer of the tower adds to its scores, or None.

    Where there is one, heads can only leave at the same places of every layer, and columns of the table with them.
    """
    return find(model.get_submodule(towers(model)[tower]), family(model).relative)


def width(model: nn.Module) -> int:
    """How wide the residual stream is now."""
    return shape(blocks(model)[0].down)[1]


def head(model: nn.Module) -> Head:
    """How the model's head reads the last hidden states.

    Raises:
        ValueError: the model ends in hidden states.
    """
    found = _head(model)
    if found is None:
        raise ValueError(
            f"{type(model).__name__} has no head that gossamer knows; "
            "load it with one, such as AutoModelForSequenceClassification, or add a line to gossamer.anatomy.HEADS"
        )
    return found


def answer(model: nn.Module) -> nn.Module | None:
    """The linear that gives the model's answers, None where it ends in hidden states."""
    found = _head(model)
    return None if found is None else found.answer


def _head(model: nn.Module) -> Head | None:
    base = _base(model)
    by_token = any(c.__name__.endswith(("ForTokenClassification", "ForQuestionAnswering")) for c in type(model).__mro__)
    pool = {"cls": "first"}.get(getattr(model.config, "classifier_pooling", ""), "mean")
    for line in HEADS:
        words = [pool if w == "pool" else join(base, w[1:]) if w[0] == "@" else w for w in line.split(" > ")]
        paths = [w for w in words if w not in (*POOLS, *ACTIVATIONS)]
        if all(expand(model, p) for p in paths) and not (by_token and words[0] in POOLS):
            return Head(words[:-1], model.get_submodule(words[-1]), words[-1])
    return None


def stream(model: nn.Module) -> Stream:
    """Who touches the residual stream, in all towers: they share one width."""
    names = family(model)
    readers, writers, norms = list[nn.Module](), list[nn.Module](), list[nn.Module]()
    for i, path in enumerate(towers(model)):
        root, front = model.get_submodule(path), embeddings(model, i)
        tables = [m for m in (front.word, front.position, front.token_type) if m is not None]
        writers += [front.projection] if front.projection is not None else tables
        if front.norm is not None and (front.projection is None or names.norm_after):
            norms.append(front.norm)
        for block in blocks(model, i):
            ends = (block.part("o"), block.part("down"), block.cross.part("o") if block.cross else None)
            writing = [m for m in ends if m is not None]
            writers += writing
            readers += [m for m in block.matrices if m not in writing]
            norms += block.norms
        final = (*names.norms, names.final_norm)
        for kind, extra in ((readers, names.readers), (writers, names.writers), (norms, final)):
            kind += [m for m in (find(root, p) for p in extra) if m is not None]
    for exits in (m for m in model.modules() if isinstance(m, Exits)):
        readers += exits.heads.readers()
    for policy in (m for m in model.modules() if isinstance(m, Policy)):
        readers += policy.readers()
        norms += policy.norms()
    twin = find(model.get_submodule(_base(model)), names.twins)
    writers += [twin] if twin is not None else []
    readers += [_entry(m) for m in _ends(model)]
    return Stream(*(tuple(dict.fromkeys(kind)) for kind in (readers, writers, norms)))


def _ends(model: nn.Module) -> list[nn.Module]:
    """The modules behind the last hidden states: the first of the head, and the pooler, used or not."""
    found = _head(model)
    paths = [p for p in ([*found.steps, found.answer_path] if found else []) if p not in (*POOLS, *ACTIVATIONS)]
    ends = (find(model, p) for p in (*paths[:1], join(_base(model), "pooler")))
    return [m for m in ends if m is not None]


def _entry(module: nn.Module) -> nn.Module:
    """The linear by which a head's module, if it is more than a linear, reads."""
    return next((getattr(module, n) for n in ("dense", "summary") if hasattr(module, n)), module)


__all__ = [
    "FAMILIES",
    "HEADS",
    "Attention",
    "Block",
    "Embeddings",
    "Head",
    "Names",
    "Slice",
    "Stream",
    "answer",
    "blocks",
    "embeddings",
    "family",
    "head",
    "layers",
    "loop",
    "relative",
    "shape",
    "stream",
    "towers",
    "width",
]
