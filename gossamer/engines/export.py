"""A torch model as a graph that ONNX Runtime runs, its weights left where they are: in model.safetensors.

The graph is made by `transformers.exporters` (experimental, so it is called from here only) or, where that fails, by
`torch.onnx.export`; integer modules appear in it as integer operators.  It is compared with the model before it may
stay.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.exporters import Graph, answers, as_it_was, by_torch, by_transformers, put, quietly
from gossamer.engines.graphs import GRAPH, carried
from gossamer.engines.predictor import Batch, pad
from gossamer.engines.texts import Facts, facts, reader
from gossamer.environment import install, installed, recent
from gossamer.runtime.trigrams import trigrams_of
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

logger = logging.getLogger(__name__)


def write(model: "PreTrainedModel", tokenizer: Any, folder: str | Path, probes: Sequence[str] | None = None) -> Graph:
    """Write model.onnx and packed.onnx beside the model.safetensors, config.json, tokenizer.json of `folder`.

    Where the way depends on the text, stage-00.onnx and so on take their place, and alone.onnx for one text at a time.
    Whatever graphs are there already go first, since engines run what they find.
    model: one with a head for any task but generating text, on the CPU in fp32.  tokenizer: the one that was saved in
    `folder`.  probes: texts on which graph and model are compared, beside some of our own; by default only those.

    Raises:
        ValueError: the model is in another precision or on another device, the folder lacks a file, or graph and model
            differ.
        RuntimeError: neither exporter can express the model.
        ImportError: onnx, onnxscript or onnxruntime is missing or too old; the message says what to type.
    """
    folder = Path(folder)
    posed = _refuse(model, folder)
    for file in carried(folder):
        file.unlink()
    from gossamer.engines import graph, narrowing, stages
    from gossamer.engines.laid import cuts

    known = facts(folder)
    batches = _probes(folder, known, tokenizer, [*(probes or ()), *_texts()], model.config.vocab_size)
    wanted = _logits(model, batches, list(posed.outputs))
    tolerance = _tolerance(model, batches, posed, wanted)
    reads = [read for batch in batches for read in _reads(batch)]
    if cuts(model, posed):
        return stages.write(model, folder, known, reads, tolerance)
    packed: tuple[Path, ...] = ()
    try:
        packed = stages.write(model, folder, known, reads, tolerance).packed
        program = stages.padded(packed[0], known)
    except Exception as error:  # without it the artefact works as well, only slower
        logger.warning("no graph for packed texts: %s", str(error).strip()[:300])
        program = _program(model, batches[0], known, posed)
        narrowing.narrow(program)
        graph.fuse_attention(program)
    with put(program, folder, GRAPH) as (partial, shared, own):
        difference, agreement = _compare(partial, batches, posed, wanted, tolerance)
    return Graph(folder / GRAPH, difference, tolerance, agreement, shared, own, packed)


def _reads(batch: Batch) -> list[Read]:
    """The texts of a padded batch."""
    types = batch.get("token_type_ids", np.zeros_like(batch["input_ids"]))
    lengths = batch["attention_mask"].sum(1)
    return [
        Read(ids[:n].tolist(), kinds[:n].tolist(), False)
        for ids, kinds, n in zip(batch["input_ids"], types, lengths, strict=True)
    ]


def _refuse(model: "PreTrainedModel", folder: Path) -> Task:
    """The model's task, if a graph can hold the model."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if (has := installed(package)) is None:
            raise ImportError(f"writing a graph needs {package}; type: {install(package)}")
        recent(package, has)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}, expected the CPU; type model.cpu()")
        if tensor.is_floating_point() and tensor.dtype.itemsize != 4:
            raise ValueError(f"{name} is {tensor.dtype}, expected torch.float32; type model.float()")
    _see(folder)
    if (table := trigrams_of(model)) is not None and table.layers:
        raise ValueError('SkipBERT(misses="compute") computes what its table lacks on engine="torch" only')
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
    by_hand = partial(by_torch, names=list(posed.outputs))
    exporters: list[Callable[..., ir.Model]] = [by_transformers, by_transformers, by_hand]
    shapes: list[Any] = [dict.fromkeys(given, free), None, dict.fromkeys(given, free)]
    failed: list[str] = []
    with as_it_was(model, known), forwards(model, SPELLED):
        for export, shape in zip(exporters, shapes, strict=True):
            try:
                with quietly():
                    return export(model, given, shape)
            except Exception as error:  # what an exporter raises is its own affair; the next one may do better
                failed.append(f"{type(error).__name__}: {str(error).strip()[:300]}")
    raise RuntimeError(f'no exporter can express this model; it runs with engine="torch" ({"; ".join(failed)})')


def _tolerance(model: "PreTrainedModel", batches: list[Batch], posed: Task, wanted: NDArray[np.float32]) -> float:
    """How far the logits of graph and model may be apart; see EXACT."""
    from gossamer.engines.integers import SMOOTH, forwards, rounds

    tolerance = EXACT * max(1.0, float(np.abs(wanted).max()))
    if rounds(model):
        with forwards(model, SMOOTH):
            tolerance += NOISE * _rms(_logits(model, batches, list(posed.outputs)) - wanted)
    return tolerance


def _compare(
    file: Path, batches: list[Batch], posed: Task, wanted: NDArray[np.float32], tolerance: float
) -> tuple[float, float]:
    """Difference and agreement of graph and model; see Graph.

    Raises:
        ValueError: the difference is larger than the tolerance, or an answer is not a number.
    """
    from gossamer.engines.onnxruntime import program

    graph = program(file, threads=1)
    found = np.concatenate([_rows([graph(batch)[name] for name in posed.outputs], batch) for batch in batches])
    difference = _rms(found - wanted)
    logger.info("logits of graph and model differ by %.1e (at most %.1e)", difference, tolerance)
    if not difference <= tolerance:
        raise ValueError(
            f"the graph's logits differ from the model's by {difference:.1e}, expected at most {tolerance:.1e}; "
            'no graph was written, the artefact runs with engine="torch"'
        )
    return difference, float((found.argmax(1) == wanted.argmax(1)).mean())


def _rows(outputs: Sequence[NDArray[np.float32]], batch: Batch) -> NDArray[np.float32]:
    """Outputs (B, classes) as they are; those with an entry for each token, (B, T, ...), as (tokens, ...) in a row."""
    seen = batch["attention_mask"].astype(bool)
    per_token = outputs[0].ndim == 3 or len(outputs) > 1
    return np.concatenate([one[seen].reshape(int(seen.sum()), -1) if per_token else one for one in outputs], -1)


def _logits(model: "PreTrainedModel", batches: list[Batch], names: list[str]) -> NDArray[np.float32]:
    """(all examples or tokens of all batches, classes), without dropout."""
    said = [answers(model, one, names) for one in batches]
    return np.concatenate([_rows(one, batch) for one, batch in zip(said, batches, strict=True)])


def _rms(x: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
