"""Getting a torch model into a graph, by whoever can, and the graph into its folder.

`transformers.exporters` is experimental, so it is called from here only; `torch.onnx.export` does what it cannot.
"""

import gc
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gossamer.engines.graphs import FIT
from gossamer.engines.predictor import Batch
from gossamer.engines.texts import Facts

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Graph:
    """What was written.

    difference: between the logits of graph and model, root mean square over the probes; tolerance: what it may be.
    agreement: the share of probes with the same best class.  shared: bytes of weights that are model.safetensors';
    own: bytes of the graph's own.  packed: the graph for texts laid end to end, or its stages where the way depends on
    the text (then there is no other graph); () where the model cannot be told so.
    """

    file: Path
    difference: float
    tolerance: float
    agreement: float
    shared: int
    own: int
    packed: tuple[Path, ...] = ()


def by_transformers(model: "PreTrainedModel", given: dict[str, Any], shapes: Any) -> "ir.Model":
    """A program of transformers' exporter."""
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    exported = OnnxExporter().export(model, given, config=OnnxConfig(dynamic=True, dynamic_shapes=shapes))
    program: ir.Model = exported.program
    return program


def by_torch(
    model: Any, given: dict[str, Any], shapes: Any, names: Sequence[str], inputs: Sequence[str] | None = None
) -> "ir.Model":
    """A program of torch's own exporter.  given: arguments by name; inputs: what they are called, if otherwise."""
    import torch

    program = torch.onnx.export(
        model,
        (),
        kwargs=given,
        dynamic_shapes=shapes,
        input_names=inputs,
        output_names=names,
        dynamo=True,
    )
    assert program is not None
    return program.model


@contextmanager
def as_it_was(model: "PreTrainedModel", known: Facts) -> Iterator[None]:
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
def quietly() -> Iterator[None]:
    """Exporters tell of every step and of their own deprecations: not news for whoever compresses a model.

    They also make so many objects that looking for garbage among them takes a fifth of their time: that is left.
    """
    before, collects = logging.root.manager.disable, gc.isenabled()
    gc.disable()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
            if collects:
                gc.enable()


@contextmanager
def put(program: "ir.Model", folder: Path, name: str) -> Iterator[tuple[Path, int, int]]:
    """Write a program beside the weights, which it shares; after the block, unless it raises, it has its name.

    Yields where it is until then, the bytes that it shares, and those of its own.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    from gossamer.engines import graph

    graph.apart(program)
    common.ClearMetadataAndDocStringPass()(program)  # stack traces, with the paths of whoever exported
    program.metadata_props.pop(FIT, None)
    if graph.fits(program):
        program.metadata_props[FIT] = "yes"
    shared, own = graph.share(program, folder)
    partial = folder / f"{name}.partial"
    try:
        ir.save(program, partial)
        yield partial, shared, own
        os.replace(partial, folder / name)
    finally:
        partial.unlink(missing_ok=True)


def answers(model: "PreTrainedModel", batch: Batch, names: Sequence[str]) -> list[NDArray[Any]]:
    """The model's outputs of those names for a batch, (B, ...) each in fp32, without dropout; it is left as it was."""
    import torch

    training = model.training
    try:
        model.eval()
        with torch.inference_mode():
            out = model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    finally:
        model.train(training)
    return [getattr(out, name).float().numpy() for name in names]
