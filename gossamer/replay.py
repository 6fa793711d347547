"""Early exit replayed from stored answers: one pass of the whole model gives every threshold's accuracy and cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer.runtime.criteria import Memory
from gossamer.runtime.exits import Exits
from gossamer.runtime.walks import in_full
from gossamer.trace import tracing

BEYOND = 1e6  # every score that a criterion gives, seen or not: shares, nats, and numbers of exits


@dataclass
class Record:
    """What every exit said of every text, the model's own head the last.

    logits: (exits, n, labels).  scores: (exits, n), the criterion's, inf or -inf at the last, where nobody is asked.
    answers: (exits, n, labels), what a text leaves with there.  places: after how many layers each exit is.
    """

    logits: Tensor
    scores: Tensor
    answers: Tensor
    features: list[Tensor]
    places: list[int]


def exits_of(model: nn.Module) -> Exits | None:
    """The exits of a model, if it has any."""
    return next((module for module in model.modules() if isinstance(module, Exits)), None)


@torch.no_grad()
def record(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Record:
    """Run the whole model once; batches: what it is called with.  It is put into evaluation mode.

    Raises:
        ValueError: it has no exits.
    """
    exits = exits_of(model)
    if exits is None:
        raise ValueError(f"{type(model).__name__} has no exits; take a method of gossamer.methods.early_exit first")
    model.eval()
    parts = list[list[tuple[Tensor, Tensor]]]()
    with tracing(model) as seen, in_full(model):
        for batch in batches:
            out = model(**batch)
            found = exits.every(seen.states)
            own = [] if exits.depth in exits.places else [(out.logits, exits.summary(seen.states[-1].x))]
            parts.append([(z.float().cpu(), f.float().cpu()) for z, f in (*found, *own)])
    logits = torch.stack([torch.cat([part[i][0] for part in parts]) for i in range(len(parts[0]))])
    features = [torch.cat([part[i][1] for part in parts]) for i in range(len(parts[0]))]
    scores, answers = fold(exits, logits, features)
    places = exits.places if exits.depth in exits.places else [*exits.places, exits.depth]
    return Record(logits, scores, answers, features, places)


@torch.no_grad()
def fold(exits: Exits, logits: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The criterion's scores (exits, n) and answers (exits, n, labels) on stored logits (exits, n, labels)."""
    memory, scores, answers = Memory(), list[Tensor](), list[Tensor]()
    last = len(logits) - 1
    for i, z in enumerate(logits):
        if i == last and exits.depth not in exits.places and not exits.rule.concludes:
            scores.append(torch.zeros_like(scores[-1]))
            answers.append(z)
            break
        scores.append(exits.rule.score(i, z, features[i], memory).float())
        answers.append(exits.rule.answer(z, memory))
    return torch.stack(scores), torch.stack(answers)


def left(exits: Exits, found: Record, threshold: float) -> Tensor:
    """At which exit each text leaves, (n,)."""
    certain = torch.stack([exits.rule.certain(score, threshold) for score in found.scores])
    certain[-1] = True
    return certain.int().argmax(0)


def replay(exits: Exits, found: Record, threshold: float) -> tuple[Tensor, Tensor]:
    """After how many layers each text leaves, (n,), and with which answer, (n, labels)."""
    at = left(exits, found, threshold)
    return torch.tensor(found.places)[at], found.answers[at, torch.arange(len(at))]


def conformal(found: Record, epsilon: float, conditional: bool = False, rising: bool = True) -> float:
    """The threshold above which an answer is the last exit's with a probability of at least 1 - epsilon (CAT, 4.3).

    The (1 - epsilon)-quantile of {m(x)} and infinity, m(x) the highest score among exits that answer x otherwise, -inf
    where none does; marginal over exchangeable texts.  conditional: over texts that have such an exit only, as in the
    authors' code, which guarantees more, and never exits where there are none.  rising: certain is above the threshold,
    not below it.

    Raises:
        ValueError: the answers are numbers, of which none is another's equal.
    """
    if found.answers.shape[-1] == 1:
        raise ValueError("found answers that are numbers, expected classes: numbers are never the same; use --max-drop")
    other = found.answers.argmax(-1) != found.answers[-1].argmax(-1)  # (exits, n)
    scores = found.scores if rising else -found.scores
    highest = scores.masked_fill(~other, -torch.inf).amax(0)
    kept = (highest[other.any(0)] if conditional else highest).sort().values
    place = -(-(1 - epsilon) * (len(kept) + 1) // 1)  # rounded up, of len + 1 values from 1 on
    level = float(kept[int(place) - 1]) if 1 <= place <= len(kept) else torch.inf
    level = max(-BEYOND, min(level, BEYOND))
    above = float(torch.nextafter(torch.tensor(level), torch.tensor(torch.inf)))  # as scores are: in single precision
    return above if rising else -above
