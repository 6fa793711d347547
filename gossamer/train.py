"""The library owns the training loop, a method owns the story.

It works on the model and yields a Train when it is to be trained.  One transformers.Trainer runs each stage, with its
schedules, mixed precision, logging and checkpoints.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from gossamer.gates import HardConcrete
from gossamer.job import Job, room
from gossamer.kernels import quick, wide
from gossamer.loss import EveryExit, Loss, Step, Sum
from gossamer.order import allow
from gossamer.runtime.attention import using
from gossamer.runtime.exits import Exits
from gossamer.runtime.walks import Walk
from gossamer.task import Classification, Task
from gossamer.teacher import Teacher
from gossamer.trace import Trace, tracing


@dataclass(frozen=True)
class Moment:
    """When a stage calls back: the share of the stage that is done, and the optimizer that is about to step."""

    progress: float
    optimizer: torch.optim.Optimizer | None


@dataclass(frozen=True)
class Train:
    """One stretch of gradient descent: what to minimise, for how long, and on what.

    lr: peak learning rate of weights, the model's and those of layers that losses own (projections).  extra_lr: of
    gates, exits, thresholds and multipliers (no decay).  The schedule falls linearly to zero after `warmup`, or stays;
    extra_schedule: that of extra_lr.  only: the modules that learn (None: all), the others are as in use; without:
    modules that do not.  teacher: who answers in place of the job's.  each_step is called before every optimizer step.
    """

    loss: Loss
    epochs: float = 3.0
    lr: float = 3e-5
    extra_lr: float = 1e-2
    name: str = "train"
    batch_size: int = 32
    accumulate: int = 1
    warmup: float = 0.1
    decay: float = 0.01
    schedule: Literal["linear", "constant"] = "linear"
    extra_schedule: Literal["linear", "constant"] = "linear"
    only: Sequence[nn.Module] | None = None
    without: Sequence[nn.Module] = ()
    teacher: nn.Module | None = None
    each_step: Callable[[Moment], None] = lambda moment: None


class Method(Protocol):
    """A compression method, or several combined: operates on job.model, and yields whenever it is to be trained."""

    def __call__(self, job: Job) -> Iterator[Train]:
        """The stages."""
        ...


class Lesson(nn.Module):
    """The student and the loss as one module, so that all that learns is under one roof (and one DDP)."""

    accepts_loss_kwargs = False  # the Trainer is to divide by the accumulation steps itself

    def __init__(
        self, student: nn.Module, loss: Loss, teacher: Teacher | None, task: Task = Classification(())
    ) -> None:
        super().__init__()
        self.student, self.loss, self.progress, self.task = student, loss, 0.0, task
        self.awake: set[nn.Module] | None = None  # of the student, in training; None: all of it
        self._teacher = [teacher]  # not a child: it neither learns nor is saved

    def train(self, mode: bool = True) -> "Lesson":
        """What does not learn is as it is when used: nothing of it is dropped."""
        super().train(mode)
        if mode and self.awake is not None:
            for module in self.student.modules():
                module.training = module in self.awake
        return self

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The loss of one batch."""
        given = self.task.given(batch)
        reads, teacher = self.loss.reads, self._teacher[0]
        look = reads.student_hidden or reads.student_scores
        with tracing(self.student, reads.student_hidden, reads.student_scores) if look else nullcontext() as seen:
            out = self.student(**given)
        if seen is None:
            seen = Trace(mask=batch["attention_mask"].bool())
        seen.out = said = self.task.said(out, batch)
        taught = None if teacher is None else teacher(batch)
        loss = self.loss.weight * self.loss(Step(seen, taught, batch, self.progress))
        if self.training and torch.is_grad_enabled() and not loss.requires_grad:  # by chance, nothing that learns ran
            loss = loss + 0 * next(p for p in self.parameters() if p.requires_grad).sum()
        return {"loss": loss, "logits": said.logits}


class InOrder(Sampler[int]):
    """All examples of a whole stage in one row: shuffled anew each epoch, and grouped by length.

    Every `batch` consecutive places are one optimizer step of all processes together, so that one process or many see
    the same steps.  What does not fill the last batch of an epoch is left out, unless it is all there is.
    """

    pool = 64  # batches that are shuffled, then sorted by length

    def __init__(self, lengths: Sequence[int], batch: int, steps: int, seed: int) -> None:
        self.places: list[int] = []
        size, epoch = torch.tensor(lengths), 0
        while len(self.places) < steps * batch:
            chance = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(lengths), generator=chance)
            batches = list[Tensor]()
            for pool in order.split(self.pool * batch):
                batches += pool[size[pool].argsort(stable=True)].split(batch)
            full = [b for b in batches if len(b) == batch]
            if not full:  # fewer examples than one batch: go round
                full = [order.repeat(-(-batch // len(order)))[:batch]]
            for i in torch.randperm(len(full), generator=chance).tolist():
                self.places += full[i].tolist()
            epoch += 1
        self.places = self.places[: steps * batch]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)


class StageTrainer(Trainer):
    """transformers' Trainer, told about our parameter groups and the order of our examples."""

    def __init__(self, stage: Train, job: Job, steps: int, **kwargs: Any) -> None:
        self.stage, self.job, self.steps = stage, job, steps
        super().__init__(**kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(e["input_ids"]) for e in self.job.train]
        batch = self.args.per_device_train_batch_size * self.args.world_size * self.stage.accumulate
        return InOrder(lengths, batch, self.steps, self.job.seed)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with three groups: weights with and without decay, and what methods and losses add."""
        if self.optimizer is None:
            weights, bare, extras = grouped(cast(Lesson, self.model))
            groups = [
                {"params": weights, "lr": self.stage.lr, "weight_decay": self.stage.decay, "role": "weights"},
                {"params": bare, "lr": self.stage.lr, "weight_decay": 0.0, "role": "weights"},
                {"params": extras, "lr": self.stage.extra_lr, "weight_decay": 0.0, "role": "extras"},
            ]
            self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.stage.lr, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Each group at its own schedule: what methods and losses add, the last group, may have another."""
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            shapes = {"weights": self.stage.schedule, "extras": self.stage.extra_schedule}
            rising = int(self.args.get_warmup_steps(num_training_steps))

            def share(shape: str, step: int) -> float:
                if shape == "constant":
                    return 1.0
                falling = (num_training_steps - step) / max(1, num_training_steps - rising)
                return step / rising if step < rising else max(0.0, falling)

            self.lr_scheduler = LambdaLR(
                optimizer, [partial(share, shapes[group["role"]]) for group in optimizer.param_groups]
            )
        return self.lr_scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """The weights' gradients alone: one large one of a gate or a multiplier is not to slow down the rest."""
        weights = [p for g in self.create_optimizer().param_groups if g["role"] == "weights" for p in g["params"]]
        return cast(Tensor, self.accelerator.clip_grad_norm_(weights, self.args.max_grad_norm))

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The lesson's loss.

        Raises:
            ValueError: it is not a number.
        """
        loss: Tensor = model(**inputs)["loss"]
        if not bool(torch.isfinite(loss.detach())):
            raise ValueError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1} of {self.steps} of stage "
                f"{self.stage.name!r}; try a lower learning rate (now {self.stage.lr:g}) or --no-autocast"
            )
        return loss

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """None: the names that are missing share a tensor with another (see `unique`)."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, unique(cast(Lesson, self.model).state_dict() if state_dict is None else state_dict))


def unique(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every storage once, as safetensors wants it; tied names come back with the module's own tie."""
    seen: set[int] = set()
    return {k: v for k, v in state.items() if not v.numel() or not (v.data_ptr() in seen or seen.add(v.data_ptr()))}  # type: ignore[func-returns-value]


def grouped(lesson: Lesson) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """What learns: weights, weights without decay (biases, norms), and what methods and losses add.

    A loss adds its own numbers (multipliers); layers that it owns (projections) are weights like any other.
    """
    added = {p for m in lesson.student.modules() if isinstance(m, (HardConcrete, Walk)) for p in m.parameters()}
    added |= {p for m in lesson.loss.modules() if isinstance(m, Loss) for p in m.parameters(recurse=False)}
    learning = [p for p in lesson.parameters() if p.requires_grad]
    weights = [p for p in learning if p not in added and p.ndim > 1]
    bare = [p for p in learning if p not in added and p.ndim <= 1]
    return weights, bare, [p for p in learning if p in added]


class Watch(TrainerCallback):
    """Tells the loss how far the stage is, the stage that a step begins, and the user how long it will take."""

    def __init__(self, lesson: Lesson, stage: Train, job: Job, steps: int) -> None:
        self.lesson, self.stage, self.job, self.steps = lesson, stage, job, steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before each optimizer step."""
        self.lesson.progress = state.global_step / self.steps
        self.stage.each_step(Moment(self.lesson.progress, kwargs.get("optimizer")))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After each optimizer step."""
        self.job.tell(f"{self.stage.name}: step {state.global_step} of {self.steps}", state.global_step / self.steps)


def length(stage: Train, job: Job) -> int:
    """How many optimizer steps a stage takes."""
    steps = max(1, round(stage.epochs * len(job.train) / (stage.batch_size * stage.accumulate)))
    return max(1, round(job.share * (min(steps, job.max_steps) if job.max_steps else steps)))


def keepers(model: nn.Module) -> list[Loss]:
    """What walks that are already there need to be trained along with whatever comes."""
    return [EveryExit(m, mean=True) for m in model.modules() if isinstance(m, Exits)]


def _marked(stage: Train, lesson: Lesson) -> dict[nn.Parameter, bool]:
    """Let only what the stage names learn; what every parameter said before."""
    before = {p: p.requires_grad for p in lesson.student.parameters()}
    chosen = [lesson.student] if stage.only is None else list(stage.only)
    gates = {p for m in lesson.student.modules() if isinstance(m, HardConcrete) for p in m.parameters()}
    still = {p for m in stage.without for p in m.parameters()} - gates  # gates on what is still decide over more
    learning = {p for m in chosen for p in m.parameters()} - still
    if stage.only is not None:
        learning |= {p for m in lesson.student.modules() if isinstance(m, (HardConcrete, Walk)) for p in m.parameters()}
    for p in before:
        p.requires_grad_(p in learning and p.is_floating_point())
    return before


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the trainer's state is its last file."""
    for found in sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.partition("-")[2])):
        try:
            json.loads((found / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return found
    return None


def train(job: Job, stage: Train) -> None:
    """Run one stage, or take its result from the working folder if it ran before.

    Raises:
        ValueError: the loss is not finite.
        OSError: the disk is full.
    """
    steps, folder = length(stage, job), job.next_stage(stage.name)
    teaching: Any = stage.teacher or job.teacher
    if teaching is not None:
        teaching = teaching.to(job.device)
    kept = [k for k in job.keep if k is not stage.loss]
    loss = Sum([stage.loss, *kept]) if kept else stage.loss
    asked = loss.reads.teacher
    teacher = Teacher(teaching, loss.reads, job.autocast, job.task) if asked and teaching is not None else None
    if asked and teacher is None:
        raise ValueError(f"stage {stage.name!r} learns from a teacher and there is none; name one with --teacher")
    lesson = Lesson(job.model, loss, teacher, job.task).to(job.device)
    end = folder / "end.safetensors"
    if job.resume and end.is_file():
        stage.each_step(Moment(1.0, None))
        _read_back(lesson, end)
        job.model.eval()
        return
    if teacher is not None and stage.batch_size * stage.accumulate * steps >= len(job.train) / 2:  # more come later
        key = f"{job.fingerprint(teaching)}-{loss.reads.hidden}-{loss.reads.scores}"
        with room(job.folder), job.first():
            teacher.prepare(
                job.train, job.collate, job.folder / "teacher" / key,
                lambda done, all_: job.tell(f"{stage.name}: the teacher reads {done} of {all_} texts", done / all_),
            )  # fmt: skip
    before = _marked(stage, lesson)
    if stage.only is not None:
        walks = [m for m in job.model.modules() if isinstance(m, Walk)]
        lesson.awake = {m for kept in (*stage.only, *walks) for m in kept.modules()}
    world = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=max(1, stage.batch_size // world),
        gradient_accumulation_steps=stage.accumulate,
        learning_rate=stage.lr,
        lr_scheduler_type=stage.schedule,
        warmup_steps=math.ceil(stage.warmup * steps),
        max_grad_norm=1.0,
        bf16=job.autocast,
        use_cpu=job.device.type == "cpu",
        seed=job.seed,
        save_strategy="steps",
        save_steps=max(job.save_every, math.ceil(steps / 10)),
        save_total_limit=1,
        logging_steps=max(1, steps // 50),
        report_to=job.report_to or "none",
        run_name=stage.name,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        ddp_backend="gloo" if job.device.type == "cpu" and world > 1 else None,
        ddp_find_unused_parameters=True if world > 1 else None,
        dataloader_pin_memory=False,
    )
    trainer = StageTrainer(
        stage, job, steps, model=lesson, args=arguments, train_dataset=job.train, data_collator=job.collate,
        callbacks=[Watch(lesson, stage, job, steps)],
    )  # fmt: skip
    for name in ("PrinterCallback", "ProgressCallback"):
        for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == name]:
            trainer.remove_callback(callback)
    point = latest(folder) if job.resume else None
    try:
        with room(job.folder), attending(job, job.model):
            trainer.train(resume_from_checkpoint=None if point is None else str(point))
    finally:
        for p, wanted in before.items():
            p.requires_grad_(wanted)
            p.grad = None
    stage.each_step(Moment(1.0, None))  # as when the stage is read back
    job.model.eval()
    job.log += [dict(entry, stage=stage.name) for entry in trainer.state.log_history if "loss" in entry]
    with room(job.folder), job.first():
        if trainer.is_world_process_zero():
            part = end.with_suffix(".part")
            save_file(unique({k: v.contiguous() for k, v in lesson.state_dict().items()}), part)
            os.replace(part, end)
            job.forget_checkpoints(folder)


def _read_back(lesson: Lesson, end: Path) -> None:
    """What a stage ended with.

    Raises:
        ValueError: it is not of this stage.
    """
    found, own = load_file(end), lesson.state_dict()
    if lacking := (unique(own).keys() - found.keys()) | (found.keys() - own.keys()):
        raise ValueError(
            f"{end} was written by another version of gossamer, or for another model: it and this stage differ in "
            f"{', '.join(sorted(lacking)[:3])}; go on with that version, or begin anew in another folder"
        )
    lesson.load_state_dict(found, strict=False)


def drive(job: Job, method: Method) -> None:
    """Run a method: it operates on the model; whenever it yields, we train.

    Every piece of the story starts from the same random state, whether what came before was computed or read back.

    Raises:
        ValueError: the method does not fit the model as it stands.
    """
    set_seed(job.seed)
    _begin(job, method)
    with products(job):
        _stages(job, method)
    job.model.eval()


def attending(job: Job, model: nn.Module) -> AbstractContextManager[None]:
    """How a model attends while it learns."""
    return using(model, "sdpa") if job.device.type == "cpu" else nullcontext()


def products(job: Job) -> AbstractContextManager[None]:
    """How a job multiplies what is in single precision."""
    return nullcontext() if job.autocast or not wide(job.model) else quick(job.device)


def _stages(job: Job, method: Method) -> None:
    for stage in method(job):
        if job.plan is not None:
            job.plan.append(
                {
                    "stage": stage.name,
                    "steps": length(stage, job),
                    "reads": described(stage.loss),
                    "teacher": stage.loss.reads.teacher,
                }
            )
            if job.dry:
                continue
        set_seed(job.seed + job.stage)
        train(job, stage)
        set_seed(job.seed + job.stage)


def _begin(job: Job, method: Method) -> None:
    """Before a method that is not a combination, see that it may come now, and what earlier walks need."""
    if isinstance(method, (then, also)):
        return
    allow(job.model, method, job.did)
    serves = getattr(method, "serves", None)
    if serves == "classes" and not isinstance(job.task, Classification):
        raise ValueError(
            f"{type(method).__name__} lets texts go by how certain a class is, and {job.task.kind} has no classes of "
            "texts; type BERxiT() or PABEE() for a number, or take a method that keeps every text to the end"
        )
    if serves == "texts" and not job.task.per_text:
        raise ValueError(
            f"{type(method).__name__} lets texts or tokens go before the end, and {job.task.kind} wants an answer for "
            "every token; use it for a class or a number per text, or take a method that keeps every token"
        )
    job.keep = keepers(job.model)
    if hasattr(method, "rows"):  # fine-tuning a model for its task undoes nothing, and is not undone
        job.did = [*job.did, type(method).__name__]


def described(loss: Loss) -> str:
    """The terms of a loss in a few words."""
    if isinstance(loss, Sum):
        return " + ".join(described(term) for term in loss.terms)  # type: ignore[arg-type]
    return type(loss).__name__ if loss.weight == 1 else f"{loss.weight:g} {type(loss).__name__}"


@dataclass(frozen=True, init=False, repr=False)
class then:  # noqa: N801 - a word of the recipe language
    """One method after another."""

    methods: tuple[Any, ...]

    def __init__(self, *methods: Any) -> None:
        object.__setattr__(self, "methods", methods)

    def __repr__(self) -> str:
        return f"then({', '.join(map(repr, self.methods))})"

    def __call__(self, job: Job) -> Iterator[Train]:
        """The stages of each in turn; what an earlier walk needs keeps being trained."""
        for method in self.methods:
            _begin(job, method)
            yield from method(job)


@dataclass(frozen=True)
class also:  # noqa: N801 - a word of the recipe language
    """A method, with one more term in every stage's objective."""

    method: Any
    loss: Any  # called, it builds the term anew: each stage trains its own

    def __repr__(self) -> str:
        return f"also({self.method!r}, {self.loss!r})"

    def __call__(self, job: Job) -> Iterator[Train]:
        """The method's stages, each with the term added."""
        _begin(job, self.method)
        for stage in self.method(job):
            yield replace(stage, loss=stage.loss + self.loss())


__all__ = ["Job", "Lesson", "Method", "Moment", "Train", "also", "drive", "keepers", "then", "train"]
