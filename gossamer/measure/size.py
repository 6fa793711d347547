"""How much there is: weights, counted once each, and bytes on disk."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.engines.graphs import GRAPH, STAGES, carried

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = ("config.json", "generation_config.json", "*.py")
TOKENIZER = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "chat_template.*",
)  # fmt: skip
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # read only where no safetensors are


def parameters(model: "nn.Module") -> int:
    """How many weights the model stores; one that serves in several places counts once.

    A module that offers `weight_count()` (integer and packed layers, whose bytes are not weights) answers for its own
    tensors; otherwise parameters count, and buffers of integer codes.
    """
    seen: set[tuple[object, ...]] = set()
    total = 0
    for module in model.modules():
        own = {_identity(t): t.numel() for t in _stored(module)}
        fresh = own.keys() - seen
        seen |= own.keys()
        count = getattr(module, "weight_count", None)
        if count is None:
            total += sum(own[tensor] for tensor in fresh)
        elif not own or max(own, key=lambda tensor: own[tensor]) in fresh:  # the weight itself, not a shared bias
            total += int(count())
    return total


def beyond_embeddings(model: "nn.Module") -> int:
    """`parameters` less those of the embeddings: tables, their norm, and the projection behind a narrow table.

    A weight that serves outside of the embeddings as well counts with them.
    Raises ValueError when nobody has written down where this family keeps its embeddings.
    """
    from torch import nn

    from gossamer.anatomy import embeddings, towers

    fronts = [embeddings(model, tower) for tower in range(len(towers(model)))]
    parts = [part for one in fronts for part in (one.word, one.position, one.token_type, one.norm, one.projection)]
    return parameters(model) - parameters(nn.ModuleList([part for part in parts if part is not None]))


def tensor_bytes(model: "nn.Module") -> int:
    """The bytes of the model's parameters and buffers, shared storage once: what safetensors would hold."""
    tensors = [*model.parameters(), *(b for _, b in _persistent_buffers(model))]
    return sum({_identity(t): t.numel() * t.element_size() for t in tensors}.values())


def folder_bytes(folder: str | Path) -> int:
    """All bytes of a folder, hard links counted once.

    Raises FileNotFoundError when it is not a folder.
    """
    return _total(path for path in _existing(folder).rglob("*") if path.is_file())


def needed_bytes(folder: str | Path, engine: str) -> int:
    """The bytes that running the model takes: its config, its tokenizer and the weights that the engine reads.

    folder: an artefact, or a plain transformers folder (which may hold checkpoints and other weight formats as well).
    engine: "onnxruntime" and "openvino" read the graphs, and the files beside them that the graphs name (which may be
    the safetensors); any other engine reads the safetensors, or where there are none, pytorch_model.bin.
    Raises FileNotFoundError when the folder, or weights for that engine in it, cannot be found.
    """
    place = _existing(folder)
    expected: tuple[str, ...]
    if engine in ("onnxruntime", "openvino"):
        expected, weights = (GRAPH, STAGES), {file for graph in carried(place) for file in _graph(graph)}
    else:
        expected, weights = WEIGHTS + OLD_WEIGHTS, _matching(place, WEIGHTS) or _matching(place, OLD_WEIGHTS)
    if not weights:
        raise FileNotFoundError(f"{place} holds no weights for {engine}; expected {' or '.join(expected)}")
    return _total({*weights, *_matching(place, CONFIG), *_matching(place, TOKENIZER)})


def _graph(graph: Path) -> set[Path]:
    """The graph, and its external data: files of its folder whose names stand in it."""
    content = graph.read_bytes()
    named = {one for one in graph.parent.iterdir() if one.is_file() and one.name.encode() in content}
    return {graph, *(one for one in named if one.suffix in (".safetensors", ".data", ".onnx_data"))}


def _stored(module: "nn.Module") -> "Iterator[Tensor]":
    """The module's own weights, not its children's: parameters, and buffers that hold codes in place of them."""
    yield from module.parameters(recurse=False)
    for name, buffer in module.named_buffers(recurse=False):
        if name.endswith(("codes", "packed")) and not buffer.is_floating_point():
            yield buffer


def _persistent_buffers(model: "nn.Module") -> "Iterator[tuple[str, Tensor]]":
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield name, buffer


def _identity(tensor: "Tensor") -> tuple[object, ...]:
    """What tells one stored weight from another, through views and ties; tensors without memory go by themselves."""
    if tensor.is_meta or not tensor.numel():
        return ("object", id(tensor))
    return (str(tensor.device), tensor.data_ptr(), tensor.numel())


def _existing(folder: str | Path) -> Path:
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"{place} is not a folder; expected an artefact or a transformers model folder")
    return place


def _matching(place: Path, patterns: Iterable[str]) -> set[Path]:
    return {path for pattern in patterns for path in place.glob(pattern) if path.is_file()}


def _total(paths: Iterable[Path]) -> int:
    stats = [path.stat() for path in paths]
    return sum({(s.st_dev, s.st_ino): s.st_size for s in stats}.values())
