"""One layer and its parts by role, and the paths that lead to them."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .families import Names


class Slice(nn.Module):
    """Rows start:stop of a matrix that several roles share; weight (out, in) and bias (out,) are views into it."""

    def __init__(self, module: nn.Module, start: int, stop: int, transposed: bool) -> None:
        super().__init__()
        self.module, self.start, self.stop, self.transposed = module, start, stop, transposed
        self.in_features, self.out_features = shape(module)[0], stop - start

    @property
    def weight(self) -> Tensor:
        """(out, in); writing into it writes into the shared matrix."""
        whole: Any = self.module.weight
        return (whole.t() if self.transposed else whole)[self.start : self.stop]  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        """(out,) or None."""
        whole: Any = self.module.bias
        return None if whole is None else whole[self.start : self.stop]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), by way of the whole matrix, whatever has become of it."""
        return self.module(x)[..., self.start : self.stop]  # type: ignore[no-any-return]


SIDES = (("in_features", "out_features"), ("in_channels", "out_channels"), ("num_embeddings", "embedding_dim"))


def shape(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a matrix-like module, plain, factored, settled or a table; in is 0 where nothing is read.

    Raises:
        ValueError: the module does not say.
    """
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    if isinstance(module, nn.Sequential) and len(module):
        return shape(module[0])[0], shape(module[-1])[1]
    for first, last in SIDES:
        if hasattr(module, last):
            return int(getattr(module, first, 0)), int(getattr(module, last))
    raise ValueError(f"{type(module).__name__} does not tell its shape: give it in_features and out_features")


def expand(root: nn.Module, pattern: str) -> list[str]:
    """The paths under `root` that a pattern (see the head of this file) stands for; empty if there is none."""
    for option in pattern.split("|"):
        found = [("", root)]
        for word in option.split(".") if option else ():
            found = [(f"{path}.{name}", child) for path, module in found for name, child in children(module, word)]
        if found:
            return [path.removeprefix(".") for path, _ in found]
    return []


def children(module: nn.Module, word: str) -> list[tuple[str, nn.Module]]:
    """The children that one word of a pattern stands for, by name; the walks of a Stack are not among them."""
    every = [(n, c) for n, c in module._modules.items() if c is not None and n != "walks"]
    return every if word == "*" else every[-1:] if word == "-1" else [c for c in every if c[0] == word]


def find(root: nn.Module, pattern: str) -> nn.Module | None:
    """The first module under `root` that a pattern stands for, or None."""
    paths = expand(root, pattern) if pattern else []
    return root.get_submodule(paths[0]) if paths else None


def join(*parts: str) -> str:
    """One path of several, of which some may be empty."""
    return ".".join(part for part in parts if part)


class Block:
    """One layer, its parts by role: q k v o, up down, and gate where the family has one.

    tower, index: which loop it belongs to and its place in it.  post_norm: does the norm come after the addition?
    """

    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    up: nn.Module
    down: nn.Module
    gate: nn.Module | None
    attend: nn.Module  # calls the attention function
    sublayer: nn.Module | None  # its output is the attention sublayer's result, where the norm comes last

    def __init__(self, layer: nn.Module, names: Names, tower: int = 0, index: int = 0) -> None:
        self.layer, self.names, self.tower, self.index = layer, names, tower, index
        self.post_norm = names.post_norm
        own = names.attention
        self._where = {"attend": own.attend, "q": own.q, "k": own.k, "v": own.v, "o": own.o}
        self._where |= {"up": names.up, "down": names.down, "gate": names.gate}
        self._where["sublayer"] = own.norm if names.post_norm else ""

    def __repr__(self) -> str:
        return f"Block({type(self.layer).__name__}, tower={self.tower}, index={self.index})"

    def path(self, part: str) -> str | None:
        """Where a part (q k v o up down gate attend sublayer) lies, from the layer; None if the layer has none."""
        pattern = self._where[part].partition("[")[0]
        found = expand(self.layer, pattern) if pattern else []
        return found[0] if found else None

    def part(self, part: str) -> nn.Module | None:
        """A part by its name, or None where the family has none or nothing is left of it."""
        path = self.path(part)
        if path is None:
            return None
        module, share = self.layer.get_submodule(path), self._where[part].partition("[")[2]
        if not share:
            return module
        i, n = (int(x) for x in share.rstrip("]").split("/"))
        size = shape(module)[1] // n
        return Slice(module, i * size, (i + 1) * size, isinstance(module, Conv1D))

    def __getattr__(self, part: str) -> nn.Module | None:
        """block.q, block.o, block.down ...; gate is None where there is none, sublayer where the norm comes first."""
        if part.startswith("_") or part not in self._where:
            raise AttributeError(f"a Block has no {part!r}; its parts are {', '.join(self._where)}")
        module = self.part(part)
        if module is None and part not in ("gate", "sublayer"):
            raise AttributeError(f"nothing is left of {part!r} in {self!r}; block.part({part!r}) would say None")
        return module

    def put(self, part: str, module: nn.Module, whole: bool = False) -> None:
        """Let `module` take the place of a part; with `whole`, of the whole matrix that a fused part is rows of.

        Raises:
            ValueError: the layer has no such part, or it is only some rows of a shared matrix.
        """
        path = self.path(part)
        if path is None:
            raise ValueError(f"{self!r} has no part {part!r}; it has {', '.join(self.parts)}")
        if part in self.fused and not whole:
            shared = ", ".join(sorted(p for p in self.fused if self.path(p) == path))
            raise ValueError(
                f"{part!r} of {self!r} is some rows of {path}, which holds {shared}; "
                f"put a module in place of all of it: block.put({part!r}, module, whole=True)"
            )
        self.layer.set_submodule(path, module)

    @property
    def parts(self) -> tuple[str, ...]:
        """The matrices that this layer has: of q k v o up down gate."""
        return tuple(p for p in ("q", "k", "v", "o", "up", "down", "gate") if self.path(p) is not None)

    @property
    def fused(self) -> frozenset[str]:
        """The parts that are rows of a matrix they share with others."""
        return frozenset(p for p in self.parts if "[" in self._where[p])

    @property
    def cross(self) -> "Block | None":
        """The attention to the encoder's output, as a block of q k v o attend sublayer norms only."""
        if self.names.cross is None or find(self.layer, self.names.cross.attend) is None:
            return None
        only = replace(self.names, attention=self.names.cross, cross=None, up="", down="", gate="", norm="", by_head=())
        return Block(self.layer, only, self.tower, self.index)

    @property
    def by_head(self) -> tuple[nn.Module, ...]:
        """Linears beside q whose outputs are laid out by head like q's (deberta's projections of positions)."""
        return tuple(m for m in (find(self.layer, p) for p in self.names.by_head) if m is not None)

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """The norms over the residual stream, in the order they run: attention, cross attention, feed-forward."""
        cross = self.names.cross.norm if self.cross is not None and self.names.cross is not None else ""
        found = (find(self.layer, p) for p in (self.names.attention.norm, cross, self.names.norm))
        return tuple(m for m in found if m is not None and not isinstance(m, nn.Identity))

    @property
    def matrices(self) -> list[nn.Module]:
        """What stands at q k v o up down gate, by_head and the cross attention's q k v o; a shared matrix once."""
        own = [self.layer.get_submodule(path) for p in self.parts if (path := self.path(p)) is not None]
        cross = self.cross.matrices if self.cross is not None else []
        return list(dict.fromkeys([*own, *self.by_head, *cross]))

    @property
    def linears(self) -> list[nn.Linear | Conv1D]:
        """The plain linear layers in `matrices`, inside factored ones too; what is settled is not among them."""
        return [m for part in self.matrices for m in part.modules() if isinstance(m, nn.Linear | Conv1D)]

    @property
    def head_dim(self) -> int:
        """Width of one head, of its values where they differ from its queries; 0 if no attention is left."""
        for name in ("attention_head_size", "head_dim", "key_value_proj_dim", "head_size"):
            if hasattr(self.part("attend"), name):
                return int(getattr(self.part("attend"), name))
        return 0

    @property
    def heads(self) -> int:
        """How many heads still answer: as many as o reads."""
        return self._count(self.part("o"), 0)

    @property
    def kv_heads(self) -> int:
        """How many heads of keys and values there are; fewer than `heads` where queries share them."""
        return self._count(self.part("v"), 1)

    def _count(self, module: nn.Module | None, side: int) -> int:
        return shape(module)[side] // self.head_dim if module is not None and self.head_dim else 0

    def recount(self) -> dict[str, int]:
        """Tell the attention module how many heads it has now, where the family keeps count; {attribute: new value}."""
        heads, width = self.heads, self.heads * self.head_dim
        counts = dict.fromkeys(("num_attention_heads", "num_heads", "n_heads"), heads)
        counts |= dict.fromkeys(("all_head_size", "split_size", "inner_dim"), width)
        counts |= {"num_key_value_groups": heads // self.kv_heads} if self.kv_heads else {}
        changed = {n: c for n, c in counts.items() if getattr(self.attend, n, c) != c}
        for name, count in changed.items():
            setattr(self.attend, name, count)
        return changed
