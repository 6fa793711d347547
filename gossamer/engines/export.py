"""A torch model as a graph that ONNX Runtime runs, its weights left where they are: in model.safetensors.

The graph is made by `transformers.exporters` (experimental, so it is called from here only) or, where that fails, by
`torch.onnx.export`; integer modules appear in it as integer operators.  It is compared with the model before it may
stay.
"""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines import GRAPH, PACKED
from gossamer.engines.predictor import Batch, pad
from gossamer.engines.texts import Facts, facts, reader
from gossamer.environment import install, installed
from gossamer.task import CausalLM, Classification, Read, Seq2Seq, Task

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel

WORDS = "it was the best of films and it was the worst of films , however one looks at it or its makers !"
# How far the logits of graph and model may be apart (root mean square over the probes): EXACT times the largest logit,
# or 1 if that is smaller (observed without integers: 1e-6), plus NOISE times what rounding the activations does to the
# model's logits.  For an activation that lies between two integers may go either way, and all that follows with it:
# torch's own attention kernels differ so among themselves.  Two roundings without anything in common would be at 1.4.
EXACT, NOISE = 1e-4, 2.0
LAID = 64  # tokens of a row when the packed graph is tried

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Graph:
    """What was written.

    difference: between the logits of graph and model, root mean square over the probes; tolerance: what it may be.
    agreement: the share of probes with the same best class.  packed: the graph for texts laid end
    to end, None where there is none.  shared: bytes of weights that are model.safetensors';
    own: bytes of the graph's own.
    """

    file: Path
    difference: float
    tolerance: float
    agreement: float
    shared: int
    own: int
    packed: Path | None = None


def write(model: "PreTrainedModel", tokenizer: Any, folder: str | Path, probes: Sequence[str] | None = None) -> Graph:
    """Write model.onnx beside the model.safetensors, config.json and tokenizer.json that `folder` holds already.

    model: one with a head for any task but generating text, on the CPU in fp32.  tokenizer: the one that was saved in
    `folder`.  probes: texts on which graph and model are compared, beside some of our own; by default only those.

    Raises:
        ValueError: the model's way depends on the text (no graph holds that), it is in another precision or on another
            device, the folder lacks a file, or graph and model differ.
        RuntimeError: neither exporter can express the model.
        ImportError: onnx, onnxscript or onnxruntime is missing; the message says what to type.
    """
    folder = Path(folder)
    posed = _refuse(model, folder)
    import onnx_ir as ir
    from onnx_ir.passes import common

    from gossamer.engines import graph

    known = facts(folder)
    batches = _probes(folder, known, tokenizer, [*(probes or ()), *_texts()], model.config.vocab_size)
    program = _program(model, batches[0], known, posed)
    graph.narrow(program)
    graph.apart(program)
    common.ClearMetadataAndDocStringPass()(program)  # stack traces, with the paths of whoever exported
    shared, own = graph.share(program, folder)
    partial = folder / f"{GRAPH}.partial"
    try:
        ir.save(program, partial)
        difference, tolerance, agreement = _compare(model, partial, batches, posed)
        os.replace(partial, folder / GRAPH)
    finally:
        partial.unlink(missing_ok=True)
    packed = _packed(model, folder, known, batches, posed, tolerance)
    return Graph(folder / GRAPH, difference, tolerance, agreement, shared, own, packed)


def _packed(
    model: "PreTrainedModel", folder: Path, known: Facts, batches: list[Batch], posed: Task, tolerance: float
) -> Path | None:
    """The graph for texts laid end to end, None where the model cannot be told so; the log says why."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    from gossamer.engines import graph
    from gossamer.engines.integers import SPELLED, forwards
    from gossamer.engines.laid import Laid
    from gossamer.engines.packing import batches as packed

    reads = [read for batch in batches for read in _reads(batch)]
    laid = list(packed(reads, known, width=LAID))
    free = {0: "rows", 1: "width"}
    given = {key: torch_of(value) for key, value in laid[0].batch.items()}
    shapes = {key: {0: "texts"} if key == "firsts" else free for key in given}
    partial = folder / f"{PACKED}.partial"
    try:
        with _as_it_was(model, known), forwards(model, SPELLED), _quietly():
            program = _by_torch(Laid(model, posed), given, shapes, list(posed.outputs))
        graph.apart(program)
        common.ClearMetadataAndDocStringPass()(program)
        graph.share(program, folder)
        ir.save(program, partial)
        _same(model, partial, reads, laid, known, posed, tolerance)
        os.replace(partial, folder / PACKED)
    except Exception as error:  # without it the artefact works as well, only slower
        logger.warning("no graph for packed texts: %s", str(error).strip()[:300])
        return None
    finally:
        partial.unlink(missing_ok=True)
    return folder / PACKED


def torch_of(array: NDArray[Any]) -> Any:
    """The array as a tensor."""
    import torch

    return torch.from_numpy(array)


def _reads(batch: Batch) -> list[Read]:
    """The texts of a padded batch."""
    types = batch.get("token_type_ids", np.zeros_like(batch["input_ids"]))
    lengths = batch["attention_mask"].sum(1)
    return [
        Read(ids[:n].tolist(), kinds[:n].tolist(), False)
        for ids, kinds, n in zip(batch["input_ids"], types, lengths, strict=True)
    ]


def _same(
    model: "PreTrainedModel",
    file: Path,
    reads: list[Read],
    laid: list[Any],
    known: Facts,
    posed: Task,
    tolerance: float,
) -> None:
    """Raise ValueError unless the packed graph answers as the model does text by text."""
    from gossamer.engines.onnxruntime import session, unpacked

    graph, found = session(file, threads=1), list[Any]([None] * len(reads))
    for one in laid:
        for i, outputs in unpacked(graph, one, posed):
            found[i] = np.concatenate([part.reshape(-1) for part in outputs])
    one_by_one = [pad([read], known) for read in reads]
    names = list(posed.outputs)
    wanted = [
        _logits(model, [batch], names).T if len(names) > 1 else _logits(model, [batch], names) for batch in one_by_one
    ]
    difference = _rms(np.concatenate(found) - np.concatenate([one.reshape(-1) for one in wanted]))
    logger.info("answers of packed graph and model differ by %.1e (at most %.1e)", difference, tolerance)
    if not difference <= tolerance:
        raise ValueError(f"its answers differ from the model's by {difference:.1e}, expected at most {tolerance:.1e}")


def _refuse(model: "PreTrainedModel", folder: Path) -> Task:
    """The model's task, if a graph can hold the model."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if installed(package) is None:
            raise ImportError(f"writing a graph needs {package}; type: {install(package)}")
    from gossamer.runtime.walks import stack_of

    stack = stack_of(model)
    dynamic = [type(walk).__name__ for walk in stack.walking if walk.dynamic] if stack is not None else []
    if dynamic:
        raise ValueError(
            f"{' and '.join(dynamic)} takes another way for each text, which no fixed graph can hold; "
            'this artefact runs with engine="torch"'
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}, expected the CPU; type model.cpu()")
        if tensor.is_floating_point() and tensor.dtype.itemsize != 4:
            raise ValueError(f"{name} is {tensor.dtype}, expected torch.float32; type model.float()")
    _see(folder)
    posed = facts(folder).task
    if isinstance(posed, (Seq2Seq, CausalLM)):
        raise ValueError(f'a model for {posed.kind} writes word by word, which runs with engine="torch"')
    return posed


def _see(folder: Path) -> None:
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ValueError(f"'{folder}' has no {file}; save the model and its tokenizer there first")
    if not any(folder.glob("model*.safetensors")):
        raise ValueError(f"'{folder}' has no model.safetensors; save the model there first")


def _texts() -> list[str]:
    """Texts of no, one, some and too many words."""
    words = WORDS.split()
    return [" ".join((words * 200)[:n]) for n in (9, 5, 0, 1, 2, 20, 33, 40, 2000)]


def _probes(folder: Path, known: Facts, tokenizer: Any, texts: list[str], vocabulary: int) -> list[Batch]:
    """Batches of several sizes and lengths: texts as the folder's tokenizer.json reads them, and words by chance."""
    alone = replace(known, task=Classification(()))  # each text as it is: nothing hidden, no contexts
    reads = reader(folder, alone, alone=True)(texts, None)
    for text, one in zip(texts, reads, strict=True):
        given = tokenizer(text, truncation=True, max_length=known.max_length, verbose=False)["input_ids"]
        if list(given or [known.pad_id]) != one.ids:
            raise ValueError(
                f"the tokenizer and {folder / 'tokenizer.json'} read '{text[:40]}' differently "
                f"({given[:8]} and {one.ids[:8]} ...); save the tokenizer there again"
            )
    special, chance = {*tokenizer.all_special_ids, known.pad_id}, np.random.default_rng(0)
    plain = np.setdiff1d(np.arange(vocabulary), list(special))
    words = [
        Read([i if i in special else int(chance.choice(plain)) for i in one.ids], one.types, False) for one in reads
    ]
    short = [one for one in words if len(one.ids) <= 128]
    groups = [reads[:2], short, *([one] for one in reads), words[1:4]]
    return [pad(group, known) for group in groups]


def _program(model: "PreTrainedModel", sample: Batch, known: Facts, posed: Task) -> "ir.Model":
    """The model as an ONNX program with inputs of any batch size and length, and the task's outputs."""
    import torch

    from gossamer.engines.integers import SPELLED, forwards

    given = {key: torch.from_numpy(value) for key, value in sample.items()}
    length = min(known.max_length, getattr(model.config, "max_position_embeddings", None) or known.max_length)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=length)}
    by_torch = partial(_by_torch, names=list(posed.outputs))
    exporters: list[Callable[..., ir.Model]] = [_by_transformers, _by_transformers, by_torch]
    shapes: list[Any] = [dict.fromkeys(given, free), None, dict.fromkeys(given, free)]
    failed: list[str] = []
    with _as_it_was(model, known), forwards(model, SPELLED):
        for export, shape in zip(exporters, shapes, strict=True):
            try:
                with _quietly():
                    return export(model, given, shape)
            except Exception as error:  # what an exporter raises is its own affair; the next one may do better
                failed.append(f"{type(error).__name__}: {str(error).strip()[:300]}")
    raise RuntimeError(f'no exporter can express this model; it runs with engine="torch" ({"; ".join(failed)})')


def _by_transformers(model: "PreTrainedModel", given: dict[str, Any], shapes: Any) -> "ir.Model":
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    exported = OnnxExporter().export(model, given, config=OnnxConfig(dynamic=True, dynamic_shapes=shapes))
    program: ir.Model = exported.program
    return program


def _by_torch(model: Any, given: dict[str, Any], shapes: Any, names: list[str]) -> "ir.Model":
    import torch

    program = torch.onnx.export(model, (), kwargs=given, dynamic_shapes=shapes, output_names=names, dynamo=True)
    assert program is not None
    return program.model


@contextmanager
def _as_it_was(model: "PreTrainedModel", known: Facts) -> Iterator[None]:
    """The model evaluated, with attention spelled out (fused attention exports as more), and afterwards as before."""
    from gossamer.runtime.attention import NAME, listening

    training, attention, pad_id = model.training, model.config._attn_implementation, model.config.pad_token_id
    with ExitStack() as open_:
        open_.enter_context(listening(lambda heard: None))  # ours spells the softmax out while somebody listens
        try:
            model.eval()
            if attention != NAME:  # ours may do more than attend
                model.set_attn_implementation("eager")
            model.config.pad_token_id = known.pad_id
            yield
        finally:
            vars(model).pop("forward", None)  # an exporter forgets its own
            model.config.pad_token_id = pad_id
            if attention != NAME:
                model.set_attn_implementation(attention)
            model.train(training)


@contextmanager
def _quietly() -> Iterator[None]:
    """Exporters tell of every step and of their own deprecations: not news for whoever compresses a model."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _compare(model: "PreTrainedModel", file: Path, batches: list[Batch], posed: Task) -> tuple[float, float, float]:
    """Difference, tolerance and agreement of graph and model; see Graph.

    Raises:
        ValueError: the difference is larger than the tolerance, or an answer is not a number.
    """
    from gossamer.engines.integers import SMOOTH, forwards, rounds
    from gossamer.engines.onnxruntime import session

    graph = session(file, threads=1)
    inputs = {one.name for one in graph.get_inputs()}
    names = list(posed.outputs)
    given = [{key: batch[key] for key in batch if key in inputs} for batch in batches]
    found = np.concatenate([_rows(graph.run(names, one), batch) for one, batch in zip(given, batches, strict=True)])
    wanted = _logits(model, batches, names)
    tolerance = EXACT * max(1.0, float(np.abs(wanted).max()))
    if rounds(model):
        with forwards(model, SMOOTH):
            tolerance += NOISE * _rms(_logits(model, batches, names) - wanted)
    difference = _rms(found - wanted)
    logger.info("logits of graph and model differ by %.1e (at most %.1e)", difference, tolerance)
    if not difference <= tolerance:
        raise ValueError(
            f"the graph's logits differ from the model's by {difference:.1e}, expected at most {tolerance:.1e}; "
            'no graph was written, the artefact runs with engine="torch"'
        )
    return difference, tolerance, float((found.argmax(1) == wanted.argmax(1)).mean())


def _rows(outputs: Sequence[NDArray[np.float32]], batch: Batch) -> NDArray[np.float32]:
    """Outputs (B, classes) as they are; those with an entry for each token, (B, T, ...), as (tokens, ...) in a row."""
    seen = batch["attention_mask"].astype(bool)
    per_token = outputs[0].ndim == 3 or len(outputs) > 1
    return np.concatenate([one[seen].reshape(int(seen.sum()), -1) if per_token else one for one in outputs], -1)


def _logits(model: "PreTrainedModel", batches: list[Batch], names: list[str]) -> NDArray[np.float32]:
    """(all examples or tokens of all batches, classes), without dropout."""
    import torch

    training = model.training
    try:
        model.eval()
        with torch.inference_mode():
            said = [model(**{k: torch.from_numpy(v) for k, v in one.items()}) for one in batches]
    finally:
        model.train(training)
    answers = [[getattr(one, name).numpy() for name in names] for one in said]
    return np.concatenate([_rows(one, batch) for one, batch in zip(answers, batches, strict=True)])


def _rms(x: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
