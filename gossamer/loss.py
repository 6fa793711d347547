"""Losses add up:  Task() + 0.5 * Logits(heat=2) + Hidden(312, 768).  Each reads one Step.

Padding counts nowhere: a text costs the same alone and beside longer ones.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.runtime.exits import Exits
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
    the sum over layers of the mean over tokens and features.  below: how many of the teacher's layers the student's
    embeddings stand for; evenly mapped are those above.
    """

    reads = Reads(hidden=ALL, student_hidden=True)

    def __init__(self, width: int, teacher_width: int, below: int = 0) -> None:
        super().__init__()
        self.width, self.teacher_width, self.below = width, teacher_width, below
        self.project = nn.Linear(width, teacher_width) if width != teacher_width else nn.Identity()

    def forward(self, step: Step) -> Tensor:
        """hidden: (B, T, width)."""
        s, mask = step.student.hidden, step.student.mask
        t = [step.taught.hidden[self.below], *step.taught.every(len(s) - 1, self.below)]
        assert mask is not None
        return torch.stack([masked_mse(self.project(a), b, mask) for a, b in zip(s, t, strict=True)]).sum()


class Attention(Loss):
    """Squared error between attention scores before the softmax, evenly mapped (TinyBERT, eq. 7).

    Scores of padding count as zero; the sum over layers of the mean over heads and pairs of real tokens.  below: how
    many of the teacher's layers are left out, from the first on.
    """

    reads = Reads(scores=ALL, student_scores=True)

    def __init__(self, below: int = 0) -> None:
        super().__init__()
        self.below = below

    def forward(self, step: Step) -> Tensor:
        """scores: (B, heads, T, T)."""
        s, t, mask = step.student.scores, step.taught.scores[self.below :], step.student.mask
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


def every_exit(exits: Exits, step: Step) -> list[tuple[Tensor, Tensor | None]]:
    """Logits and features of each exit, and of the model's own head if that is the last; (b, labels), (b, ...)."""
    assert step.student.states, "exits say all that they have to say in training, or `in_full`"
    found: list[tuple[Tensor, Tensor | None]] = [*exits.every(step.student.states)]
    return found if exits.depth in exits.places else [*found, (step.student.out.logits, None)]


class EveryExit(Loss):
    """Every internal classifier learns the task, and from others: sum_i w_i L_i + sum_ij a_ij heat^2 KL(p_j || p_i).

    weights: w, one for each exit and for the model's own head after them; None: 1, 2, 3, ... (PABEE, eq. 3).  pulls: a,
    (exits + 1, exits + 1), rows learn from columns, which do not learn from it; None: nobody.  mean: the first sum is
    divided by the sum of its weights.  Of numbers the squared error in place of either.
    """

    reads = Reads(student_hidden=True)

    def __init__(
        self,
        exits: Exits,
        weights: Sequence[float] | None = None,
        pulls: Tensor | None = None,
        heat: float = 1.0,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self._exits = [exits]  # the model owns them; we only read
        count = len(exits.places) + (exits.depth not in exits.places)
        self.heat, self.mean = heat, mean
        self.register_buffer("weights", torch.tensor([*range(1, count + 1)] if weights is None else weights).float())
        self.register_buffer("pulls", torch.zeros(count, count) if pulls is None else pulls.float())

    def forward(self, step: Step) -> Tensor:
        """hidden: (B, T, d); labels: (B,)."""
        tasks, pulls = self.terms([z for z, _ in every_exit(self._exits[0], step)], step.batch.get("labels"))
        weights, wanted = self.get_buffer("weights"), self.get_buffer("pulls")
        total = (weights * tasks).sum() / (weights.sum() if self.mean else 1.0)
        return total + (wanted * pulls).sum()

    def terms(
        self, logits: Sequence[Tensor], labels: Tensor | None, teaching: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """L_i, (exits + 1,), zeros where no weight asks for labels; heat^2 KL(p_j || p_i), (exits + 1, exits + 1).

        teaching: logits that give the p_j in place of the exits' own.
        """
        z = torch.stack([one.float() for one in logits])  # (exits + 1, b, labels)
        tasks, pulls = z.new_zeros(len(z)), z.new_zeros(len(z), len(z))
        if bool(self.get_buffer("weights").any()):
            assert labels is not None, "these exits learn from labels, and there are none"
            tasks = torch.stack([error(one, labels) for one in z])
        if bool(self.get_buffer("pulls").any()):
            taught = (z if teaching is None else torch.stack([one.float() for one in teaching])).detach()
            if z.shape[-1] == 1:
                pulls = (z[:, None] - taught[None]).square().mean((-1, -2))
            else:
                log, other = (z / self.heat).log_softmax(-1), (taught / self.heat).log_softmax(-1)
                apart = other.exp()[None] * (other[None] - log[:, None])  # (learning, teaching, b, labels)
                pulls = apart.sum(-1).mean(-1) * self.heat**2
        return tasks, pulls


def error(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, or the squared error of one number; (b, labels), (b,)."""
    return F.mse_loss(logits[:, 0], labels.float()) if logits.shape[-1] == 1 else F.cross_entropy(logits, labels)


class Alternating(Loss):
    """One term in even steps, the other in odd ones (BERxiT, section 3.1)."""

    def __init__(self, even: Loss, odd: Loss) -> None:
        super().__init__()
        self.even, self.odd = even, odd
        self.reads = even.reads | odd.reads
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, step: Step) -> Tensor:
        """Counted in training."""
        turn = self.get_buffer("steps")
        term = self.odd if int(turn) % 2 else self.even
        if self.training:
            turn.add_(1)
        found: Tensor = term.weight * term(step)
        return found


class Projected(Loss):
    """anchor + other, where what in other's gradient points against the anchor's is taken out (RomeBERT, eq. 8).

    over: the parameters whose gradients, in a row, are compared: g_b - (<g_a, g_b> / |g_a|^2) g_a if <g_a, g_b> < 0.
    Where several processes share a step, each projects its own.
    """

    def __init__(self, anchor: Loss, other: Loss, over: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.anchor, self.other, self._over = anchor, other, list(over)
        self.reads = anchor.reads | other.reads

    def forward(self, step: Step) -> Tensor:
        """The value is the plain sum; the gradient is the projected one."""
        a, b = self.anchor.weight * self.anchor(step), self.other.weight * self.other(step)
        over = [p for p in self._over if p.requires_grad]
        if not over or not (torch.is_grad_enabled() and a.requires_grad and b.requires_grad):
            return a + b  # type: ignore[no-any-return]
        grads = [torch.autograd.grad(one, over, retain_graph=True, allow_unused=True) for one in (a, b)]
        ga, gb = ([torch.zeros_like(p) if g is None else g for p, g in zip(over, each, strict=True)] for each in grads)
        dot = torch.stack([(x * y).sum() for x, y in zip(ga, gb, strict=True)]).sum()
        norm = torch.stack([x.square().sum() for x in ga]).sum().clamp_min(1e-20)
        share = (-dot / norm).clamp_min(0)
        lift = torch.stack([(share * x * p).sum() for x, p in zip(ga, over, strict=True)]).sum()
        return a + b + (lift - lift.detach())  # type: ignore[no-any-return]
