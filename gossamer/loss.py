"""Losses add up:  Task() + 0.5 * Logits(heat=2) + Hidden(312, 768).  Each reads one Step.

Padding counts nowhere: a text costs the same alone and beside longer ones.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.runtime.walks import Patience
from gossamer.trace import Trace

ALL = 0  # every layer


@dataclass
class Step:
    """What a loss sees of one step of training.

    student, teacher: traces of the same batch, whose `out` is what gossamer.task.Said is: loss, logits (rows, classes);
    teacher is None if no term reads it.  progress: 0 at the start of the
    stage, 1 at its end.
    """

    student: Trace
    teacher: Trace | None
    batch: Mapping[str, Tensor]
    progress: float

    @property
    def taught(self) -> Trace:
        """The teacher's trace, by a term that said it reads it."""
        assert self.teacher is not None, "a loss reads the teacher without saying so in `reads`"
        return self.teacher


@dataclass(frozen=True)
class Reads:
    """What a loss needs to see.

    hidden, scores: how many evenly spaced layers of the teacher (ALL: every one, None: not read).  student_hidden,
    student_scores: whether the student's are read.
    """

    logits: bool = False
    hidden: int | None = None
    scores: int | None = None
    student_hidden: bool = False
    student_scores: bool = False

    def __or__(self, other: "Reads") -> "Reads":
        def both(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None or a == b else ALL

        return Reads(
            self.logits or other.logits,
            both(self.hidden, other.hidden),
            both(self.scores, other.scores),
            self.student_hidden or other.student_hidden,
            self.student_scores or other.student_scores,
        )

    @property
    def teacher(self) -> bool:
        """Whether a teacher is needed at all."""
        return self.logits or self.hidden is not None or self.scores is not None


class Loss(nn.Module):
    """A term of the objective.  May own parameters (projections, multipliers)."""

    weight = 1.0
    reads = Reads()

    def forward(self, step: Step) -> Tensor:
        """A scalar."""
        raise AssertionError(f"{type(self).__name__} says nothing")

    def __add__(self, other: "Loss") -> "Sum":
        return Sum([self, other])

    def __rmul__(self, weight: float) -> "Loss":
        self.weight = weight * self.weight
        return self

    def __repr__(self) -> str:
        """As a recipe spells it: `0.5 * Logits(heat=2.0)`."""
        words = [n for n in list(inspect.signature(type(self).__init__).parameters)[1:] if hasattr(self, n)]
        call = f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in words)})"
        return call if self.weight == 1 else f"{self.weight!r} * {call}"


class Sum(Loss):
    """Weighted terms, added."""

    def __init__(self, terms: list[Loss]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        reads = Reads()
        for term in terms:
            reads = reads | term.reads
        self.reads = reads

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def forward(self, step: Step) -> Tensor:
        """The sum, by each term's weight."""
        return torch.stack([t.weight * t(step) for t in self.terms]).sum()


class Task(Loss):
    """Whatever the model itself was made for: cross-entropy or squared error against the labels."""

    def forward(self, step: Step) -> Tensor:
        """The loss that the model computed."""
        return step.student.out.loss  # type: ignore[no-any-return]


class Logits(Loss):
    """Soft cross-entropy against the teacher (Hinton, Vinyals & Dean, 2015), as heat^2 KL(teacher || student).

    The mean over rows (texts, words, positions) of the sum over the classes; of numbers the squared error instead.
    """

    reads = Reads(logits=True)

    def __init__(self, heat: float = 1.0) -> None:
        super().__init__()
        self.heat = heat

    def forward(self, step: Step) -> Tensor:
        """logits: (rows, classes)."""
        s, t = step.student.out.logits.float(), step.taught.out.logits.float()
        if s.shape[-1] == 1 or getattr(step.student.out, "numbers", False):
            return F.mse_loss(s, t)
        s, t = (s / self.heat).log_softmax(-1), (t / self.heat).log_softmax(-1)
        rows = shared(torch.tensor(float(len(s)), device=s.device))  # of words, processes may have more or fewer
        return F.kl_div(s, t, reduction="sum", log_target=True) / rows * self.heat**2


def masked_mse(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over real tokens and all features; a, b (B, T, d), mask (B, T)."""
    error = (a.float() - b.float()).square().mean(-1) * mask
    return error.sum() / shared(mask.sum())


def shared(n: Tensor) -> Tensor:
    """A number that is a sum over the batch, as its mean over the processes that share the step.

    Divided by it, the mean of all processes' losses is the loss of their whole batch, however its tokens are dealt out.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return n.detach()
    n = n.detach().float().clone()
    torch.distributed.all_reduce(n)
    return n / torch.distributed.get_world_size()


class Hidden(Loss):
    """Squared error between hidden states, embeddings included, evenly mapped (TinyBERT, eq. 8 and 9).

    One projection with bias from the student's to the teacher's width, shared by all layers as in the official code;
    the sum over layers of the mean over tokens and features.
    """

    reads = Reads(hidden=ALL, student_hidden=True)

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.width, self.teacher_width = width, teacher_width
        self.project = nn.Linear(width, teacher_width) if width != teacher_width else nn.Identity()

    def forward(self, step: Step) -> Tensor:
        """hidden: (B, T, width)."""
        s, mask = step.student.hidden, step.student.mask
        t = [step.taught.hidden[0], *step.taught.every(len(s) - 1)]
        assert mask is not None
        return torch.stack([masked_mse(self.project(a), b, mask) for a, b in zip(s, t, strict=True)]).sum()


class Attention(Loss):
    """Squared error between attention scores before the softmax, evenly mapped (TinyBERT, eq. 7).

    Scores of padding count as zero; the sum over layers of the mean over heads and pairs of real tokens.
    """

    reads = Reads(scores=ALL, student_scores=True)

    def forward(self, step: Step) -> Tensor:
        """scores: (B, heads, T, T)."""
        s, t, mask = step.student.scores, step.taught.scores, step.student.mask
        assert mask is not None and s, "the student's attention was not heard"
        taught = [t[(2 * i * len(t) + len(s)) // (2 * len(s)) - 1] for i in range(1, len(s) + 1)]
        pairs = shared(mask.sum(1).square().sum())
        return torch.stack(
            [(a.float() - b.float()).square().mean(1).sum() / pairs for a, b in zip(s, taught, strict=True)]
        ).sum()


class NearestHidden(Loss):
    """Some layers of the teacher pull each on one layer of the student (CoFi, eq. 5 and 6).

    alignment "nearest": on the closest of all; "monotone": on the closest that lies under the one that the teacher
    layer above pulls, searched from the top (the authors' version 4; where too few are left, on the lowest again).
    `living` tells which layers still do something (a layer does as long as one of its two sublayers is left, where the
    authors' code asks for its attention); the others are not pulled.  The projection starts as the identity.  The sum
    over the pairs of the mean over tokens and features.
    """

    def __init__(self, width: int, teacher_width: int, layers: int = 4, alignment: str = "nearest") -> None:
        super().__init__()
        self.width, self.teacher_width, self.layers, self.alignment = width, teacher_width, layers, alignment
        self.reads = Reads(hidden=layers, student_hidden=True)
        self.project = nn.Linear(width, teacher_width, bias=False)
        nn.init.eye_(self.project.weight)
        self.living: Callable[[], Sequence[bool]] | None = None

    def narrow(self, kept: Tensor | None) -> None:
        """The student's stream has kept only these dimensions."""
        if kept is not None:
            self.project.weight = nn.Parameter(self.project.weight.detach()[:, kept].clone())
            self.project.in_features = len(kept)

    def align(self, distances: Tensor) -> list[int]:
        """The student layer for each teacher layer; distances (teacher layers, student layers)."""
        alive = self.living() if self.living is not None else [True] * distances.shape[1]
        assert len(alive) == distances.shape[1], (len(alive), tuple(distances.shape))
        left = [j for j, lives in enumerate(alive) if lives] or list(range(len(alive)))
        found = list[int]()
        for row in distances.flip(0):
            found.insert(0, min(left, key=row.tolist().__getitem__))
            if self.alignment == "monotone":
                left = [j for j in left if j < found[0]] or left[:1]
        return found

    def forward(self, step: Step) -> Tensor:
        """hidden: (B, T, width)."""
        mask = step.student.mask
        assert mask is not None
        s = [self.project(h) for h in step.student.hidden[1:]]
        t = step.taught.every(min(self.layers, len(step.taught.hidden) - 1))
        distances = torch.stack([torch.stack([masked_mse(a, b, mask) for a in s]) for b in t])
        chosen = self.align(shared(distances))
        return torch.stack([distances[i, j] for i, j in enumerate(chosen)]).sum()


class EveryExit(Loss):
    """Every internal classifier learns the task, deeper ones weigh more: sum_i i L_i / sum_i i (PABEE, eq. 3).

    exits: a walk with `depth`, and `logits(i, x)` for its first depth - 1 exits; the model's own head is the last.
    """

    reads = Reads(student_hidden=True)

    def __init__(self, exits: Patience) -> None:
        super().__init__()
        self._exits = [exits]  # the model owns them; we only read

    def forward(self, step: Step) -> Tensor:
        """hidden: (B, T, d); labels: (B,)."""
        exits, labels = self._exits[0], step.batch["labels"]
        total = exits.depth * step.student.out.loss
        for i, x in enumerate(step.student.hidden[1 : exits.depth]):
            logits = exits.logits(i, x).float()
            one = F.mse_loss(logits[:, 0], labels.float()) if exits.labels == 1 else F.cross_entropy(logits, labels)
            total = total + (i + 1) * one
        return total / (exits.depth * (exits.depth + 1) / 2)  # type: ignore[no-any-return]
