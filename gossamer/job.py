"""A job: one model, one task, one folder to work in; what a method is handed, and what survives an interruption."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossamer.task import Said, Task

Progress = Callable[[str, float], None]


@dataclass
class Job:
    """What a method works on.

    model: what is being compressed; a method may put another in its place.  teacher: the fine-tuned model, frozen.
    pretrained: the model before it was fine-tuned, where there is one.  train, dev: encoded examples, unpadded.
    folder: the working folder; stages, checkpoints and the teacher's answers survive an interruption there.
    max_steps: no stage takes more.  share: of its own length, what every stage takes.  autocast: train in bfloat16.
    keep: losses that earlier walks need.  plan: when not None, each stage is noted there, and not trained if `dry`.
    did: the methods begun so far, by name.
    """

    model: Any
    teacher: Any
    task: Task
    tokenizer: Any
    train: list[dict[str, Any]]
    dev: list[dict[str, Any]]
    folder: Path
    pretrained: Any = None
    seed: int = 0
    max_steps: int | None = None
    share: float = 1.0
    autocast: bool = False
    report_to: str | None = None
    resume: bool = False
    dry: bool = False
    save_every: int = 50
    progress: Progress | None = None
    keep: list[Any] = field(default_factory=list)
    plan: list[dict[str, Any]] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    stage: int = 0
    did: list[str] = field(default_factory=list)

    @cached_property
    def device(self) -> torch.device:
        """A GPU if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def pad_id(self) -> int:
        """The token that fills batches up."""
        return int(getattr(self.tokenizer, "pad_token_id", None) or getattr(self.model.config, "pad_token_id", 0) or 0)

    def tell(self, what: str, share: float) -> None:
        """Say what is being done, and the share of it that is done."""
        if self.progress is not None:
            self.progress(what, share)

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A padded batch."""
        return self.task.collate(examples, self.pad_id)

    def batches(self, count: int, size: int = 32) -> Iterator[dict[str, Tensor]]:
        """`count` training examples, evenly spaced over the data, in batches as the model is called with them."""
        return (self.task.given(batch, labels=False) for batch in self._batches(count, size))

    def asked(self, examples: Sequence[dict[str, Any]], size: int = 32) -> list[dict[str, Tensor]]:
        """These examples, in their order, in batches as the model is called with them."""
        batches = (self.collate(examples[at : at + size]) for at in range(0, len(examples), size))
        found = (self.task.given(batch, labels=False) for batch in batches)
        return [{k: v.to(self.device) for k, v in batch.items()} for batch in found]

    def said(self, count: int, size: int = 32) -> Iterator[tuple[dict[str, Tensor], Said]]:
        """Those batches, and what the model says of each, by its labels too."""
        for batch in self._batches(count, size):
            yield batch, self.task.said(self.model(**self.task.given(batch)), batch)

    def _batches(self, count: int, size: int) -> Iterator[dict[str, Tensor]]:
        picked = np.unique(np.linspace(0, len(self.train) - 1, min(count, len(self.train))).round().astype(int))
        chosen = sorted((self.train[i] for i in picked), key=lambda e: -len(e["input_ids"]))
        for at in range(0, len(chosen), size):
            batch = self.collate(chosen[at : at + size])
            yield {k: v.to(self.device) for k, v in batch.items()}

    def next_stage(self, name: str) -> Path:
        """The folder of the next stage; stages are counted from 1."""
        self.stage += 1
        return self.folder / f"stage-{self.stage:02d}-{re.sub(r'[^a-z0-9]+', '-', name.lower())}"

    def forget_checkpoints(self, folder: Path) -> None:
        """A finished stage needs its end only."""
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def first(self) -> AbstractContextManager[None]:
        """Let the main process do this first, where there are several."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return nullcontext()
        from accelerate import PartialState

        state = PartialState(cpu=True, backend="gloo") if self.device.type == "cpu" else PartialState()
        assert state.num_processes > 1, "several processes were started, and accelerate knows of one"
        return cast(AbstractContextManager[None], state.main_process_first())

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return int(os.environ.get("RANK", "0")) == 0

    def fingerprint(self, model: nn.Module) -> str:
        """A short name for the very weights of a model."""
        total = hashlib.sha256()
        for name, tensor in model.state_dict().items():
            total.update(f"{name} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()[:12]


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Tell a full disk in our words, whichever library meets it.

    Raises:
        OSError: no space is left where `folder` is written.
    """
    try:
        yield
    except Exception as error:
        signs = ("No space left", "os error 28", "PytorchStreamWriter failed", "unexpected pos")
        if not any(sign in str(error) for sign in signs):
            raise
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        raise OSError(
            f"the disk is full: {shutil.disk_usage(there).free / 2**20:.1f} MiB are left where {folder} was to be "
            "written; make room, or choose another folder, and run again with --resume"
        ) from error


@torch.no_grad()
def answers(model: nn.Module, job: Job, examples: Sequence[dict[str, Any]], size: int = 64) -> NDArray[np.float32]:
    """The model's logits on encoded examples, in their order; (n, classes) or (n, 1).

    Raises:
        ValueError: the task has more answers to a text than one.
    """
    if not job.task.per_text:
        raise ValueError(f"{job.task.kind} has no one row of logits a text; measure it with gossamer.measure")
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]["input_ids"]))
    found: list[NDArray[np.float32] | None] = [None] * len(examples)
    for at in range(0, len(order), size):
        places = order[at : at + size]
        batch = job.collate([examples[i] for i in places])
        given = {k: v.to(job.device) for k, v in job.task.given(batch, labels=False).items()}
        logits = model(**given).logits.float().cpu().numpy()
        for i, row in zip(places, logits, strict=True):
            found[i] = row
    return np.stack(cast(list[NDArray[np.float32]], found))


def score(model: nn.Module, job: Job, examples: Sequence[dict[str, Any]]) -> float:
    """The task's metric of the model on labelled examples."""
    labels = np.array([e["labels"] for e in examples])
    return job.task.score(answers(model, job, examples), labels)
