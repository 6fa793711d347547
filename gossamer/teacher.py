"""What the teacher thinks of every training text, computed once.

Nothing random touches the teacher's input, so its answers to a text never change: one pass over the data in batches of
equal length, kept in half precision in files of the working folder, and a step of distillation costs little more than a
step of fine-tuning.  Where a stage sees less than the whole data, or the files would be too large, the teacher answers
batch by batch instead.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.loss import ALL, Reads
from gossamer.runtime.walks import in_full
from gossamer.task import Classification, Said, Task
from gossamer.trace import Trace, tracing

LARGEST = 8 * 2**30  # bytes on disk
Collate = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]
Tell = Callable[[int, int], None]


@dataclass
class Remembered(Trace):
    """A trace put together from what was written down."""

    pairs: list[Tensor] = field(default_factory=list)

    @property
    def scores(self) -> list[Tensor]:
        """(B, heads, T, T) by layer."""
        return self.pairs


def chosen(trace: Trace, count: int) -> list[Tensor]:
    """What enters the first layer, and the outputs of all or of some evenly spaced layers."""
    outs = trace.hidden[1:]
    return [trace.hidden[0], *(outs if count == ALL else trace.every(min(count, len(outs))))]


class Teacher:
    """Traces of the teacher, batch by batch; from files once `prepare` was called."""

    def __init__(self, model: nn.Module, reads: Reads, autocast: bool = False, task: Task = Classification(())) -> None:
        self.model, self.reads, self.autocast, self.task = model.eval(), reads, autocast, task
        self.kept: dict[str, np.ndarray[Any, Any]] = {}
        self.starts: np.ndarray[Any, Any] = np.zeros(0)
        self.lengths: np.ndarray[Any, Any] = np.zeros(0)

    @torch.no_grad()
    def think(self, batch: Mapping[str, Any]) -> Trace:
        """Ask the teacher itself."""
        device = next(self.model.parameters()).device
        batch = {k: v.to(device) for k, v in batch.items()}
        hidden, scores = self.reads.hidden is not None, self.reads.scores is not None
        with (
            in_full(self.model),
            tracing(self.model, hidden=hidden, attention=scores) as seen,
            torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
        ):
            out = self.model(**self.task.given(batch, labels=False))
        said = self.task.said(out, batch)
        trace = Remembered(
            out=replace(said, logits=said.logits.float()),
            hidden=chosen(seen, cast(int, self.reads.hidden)) if hidden else [],
            mask=seen.mask,
            pairs=seen.scores if scores else [],
        )
        return trace

    def shapes(self, examples: Sequence[dict[str, Any]], collate: Collate) -> dict[str, tuple[int, ...]]:
        """The shapes of the files that `prepare` would write."""
        probe = cast(Remembered, self.think(collate(examples[:1])))
        lengths = np.array([len(e["input_ids"]) for e in examples])
        shapes: dict[str, tuple[int, ...]] = {"logits": (len(examples), probe.out.logits.shape[-1])}
        if probe.hidden:
            shapes["hidden"] = (int(lengths.sum()), len(probe.hidden), probe.hidden[0].shape[-1])
        if probe.pairs:
            layers = {p.shape[1] for p in probe.pairs}
            if len(layers) == 1:
                shapes["scores"] = (int((lengths**2).sum()), len(probe.pairs), layers.pop())
            else:
                shapes["scores"] = (LARGEST, 1, 1)  # unevenly pruned heads: not worth a format of its own
        return shapes

    def prepare(self, examples: Sequence[dict[str, Any]], collate: Collate, folder: Path, tell: Tell) -> bool:
        """Write down what the losses read of every example; False where that would be too large.

        So it is where a text has more answers than one.  Files that a former run completed are used again.
        """
        if not self.task.per_text:
            return False
        shapes = self.shapes(examples, collate)
        if 2 * sum(int(np.prod(s)) for s in shapes.values()) > LARGEST:
            return False
        self.lengths = np.array([len(e["input_ids"]) for e in examples])
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / "complete.json"
        whole = done.is_file() and json.loads(done.read_text()) == {k: list(v) for k, v in shapes.items()}
        for name, shape in shapes.items():
            dtype = np.float32 if name == "logits" else np.float16
            mode = "r" if whole else "w+"
            path = folder / f"{name}.npy"
            self.kept[name] = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
            if not whole:  # claim the room now: a full disk is an error here, and a crash when a page is first touched
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.squares = np.concatenate([[0], np.cumsum(self.lengths**2)])
        if not whole:
            order = np.argsort(-self.lengths, kind="stable")
            for at in range(0, len(order), 64):
                self._keep(order[at : at + 64], examples, collate)
                tell(min(at + 64, len(order)), len(order))
            for array in self.kept.values():
                cast(np.memmap[Any, Any], array).flush()
            part = done.with_suffix(".part")
            part.write_text(json.dumps(shapes))
            part.replace(done)
        return True

    def _keep(self, places: np.ndarray[Any, Any], examples: Sequence[dict[str, Any]], collate: Collate) -> None:
        seen = cast(Remembered, self.think(collate([examples[i] for i in places])))
        hidden = torch.stack(seen.hidden, 2).half().cpu().numpy() if seen.hidden else None  # (B, T, layers, d)
        pairs = torch.stack(seen.pairs, 1).permute(0, 3, 4, 1, 2).half().cpu().numpy() if seen.pairs else None
        for row, i in enumerate(places):
            n = int(self.lengths[i])
            self.kept["logits"][i] = seen.out.logits[row].cpu().numpy()
            if hidden is not None:
                self.kept["hidden"][self.starts[i] : self.starts[i] + n] = hidden[row, :n]
            if pairs is not None:
                flat = pairs[row, :n, :n].reshape(n * n, *pairs.shape[3:])
                self.kept["scores"][self.squares[i] : self.squares[i] + n * n] = flat

    def recall(self, batch: Mapping[str, Any]) -> Trace:
        """Read the traces of a batch back, padded like the batch."""
        index, device = batch["index"].tolist(), batch["input_ids"].device
        size, longest = batch["input_ids"].shape
        logits = torch.from_numpy(np.array(self.kept["logits"][index])).to(device)
        trace = Remembered(out=Said(None, logits), mask=batch["attention_mask"].bool())
        if "hidden" in self.kept:
            kept = self.kept["hidden"]
            block = np.zeros((size, longest, *kept.shape[1:]), np.float16)
            for row, i in enumerate(index):
                block[row, : self.lengths[i]] = kept[self.starts[i] : self.starts[i + 1]]
            trace.hidden = list(torch.from_numpy(block).to(device).float().unbind(2))
        if "scores" in self.kept:
            kept = self.kept["scores"]
            block = np.zeros((size, longest, longest, *kept.shape[1:]), np.float16)
            for row, i in enumerate(index):
                n = int(self.lengths[i])
                block[row, :n, :n] = kept[self.squares[i] : self.squares[i + 1]].reshape(n, n, *kept.shape[1:])
            trace.pairs = list(torch.from_numpy(block).to(device).float().permute(3, 0, 4, 1, 2).unbind(0))
        return trace

    def __call__(self, batch: Mapping[str, Any]) -> Trace:
        """The teacher's trace of a batch."""
        return self.recall(batch) if self.kept else self.think(batch)
