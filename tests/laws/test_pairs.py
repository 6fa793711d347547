"""Law 8: every method after every other works, or refuses with our sentence; the earlier one's work is still there."""

from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from gossamer import artefact, order, recipe
from gossamer.job import Job
from gossamer.measure.size import parameters, tensor_bytes
from gossamer.runtime.exits import Exits
from gossamer.runtime.tokens import Policy
from gossamer.runtime.trigrams import Trigrams
from tests import small
from tests.laws.test_alone import CLAIMS

EXITS = [n for n, m in recipe.methods().items() if m.__module__.split(".")[-2] == "early_exit" and m.kind == "walk"]
# Exits are one mechanism, so three of its methods stand for all beside what changes shapes: heads that share a pooler,
# that look at all tokens, that remember layers.
TYPICAL = ("FastBERT", "PABEE", "PastFuture")
TWINS = ("PoWERBERT", "TRBERT")  # of LAT and Transkimmer, which stand for them in the same way
BESIDE = ("Int8", "LTP")


def telling(first: str, second: str) -> bool:
    """Whether a pair can show what others do not."""
    untypical = [n for n in (first, second) if (n in EXITS and n not in TYPICAL) or n in TWINS]
    return not untypical or {first, second} <= {*untypical, *BESIDE} or first == second


PAIRS = [pair for pair in product(small.NAMES, repeat=2) if telling(*pair)]
RANK = {"begin": 0, "rearrange": 1, "cut": 2, "factor": 3, "table": 4, "settle": 5}
AGAIN = ("CoFi", "Theseus")  # what a second time takes away more
ALIKE = (set(EXITS), {"LAT", "PoWERBERT"}, {"TRBERT", "Transkimmer"})  # one mechanism, which walks a model once
DEEP = ("LeeBERT", "PABEE", "PCEEBERT")  # their patience asks for more than two layers
REASONS = (
    r"comes too late: the model already holds .*; put \w+ first",
    r"begins a new student, which would lose what was done before \(found: .*\); put \w+ first",
    r"already walks the layers of this model; use it once",
    r"finds nothing to do; leave it out",
    r"differ in shape \(they were cut unevenly\); put Share first",
    r"no example could stop before the end; type \w+\(",
)


def allowed(first: str, second: str) -> bool:
    """What the order law says of a pair, and what of these very models."""
    one, two = (small.method(name).kind for name in (first, second))
    if first == second or any({first, second} <= alike for alike in ALIKE):
        return first in AGAIN
    if two == "begin" or (one == "walk" and two in ("rearrange", "table")):
        return False
    if (first, second) in (("Share", "Theseus"), ("CoFi", "Share"), ("Int8", "TernaryBERT"), ("Share", "SkipBERT")) or (
        first in ("SkipBERT", "Theseus") and second in DEEP
    ):
        return False  # a walk is in the way; cut unevenly; nothing is left to round; too shallow for patience
    if "walk" in (one, two):
        return True
    return RANK[one] <= RANK[two] or (one, two) == ("cut", "rearrange")


def without(model: nn.Module) -> dict[str, float]:
    """What a model costs; what exits, policies and tables store, which bring weights of their own, is left out."""
    found = small.costs(model)
    own = [m for m in model.modules() if isinstance(m, (Exits, Policy, Trigrams))]
    found["bytes"] -= sum(tensor_bytes(m) for m in own)
    found["weights"] -= sum(parameters(m) for m in own)
    return found


@pytest.fixture(scope="session")
def cost(finished: Callable[..., Job]) -> Callable[[str], dict[str, float]]:
    """A function of a method's name: `without` of the model after it, looked at once."""
    return cache(lambda name: without(finished(name).model))


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_law_8(
    first: str, second: str, finished: Callable[..., Job], cost: Callable[[str], dict[str, float]], tmp_path: Path
) -> None:
    before = finished(first)
    job = small.again(before, tmp_path / "work")
    if not allowed(first, second):
        with pytest.raises(ValueError, match="|".join(REASONS)):
            small.after(job, second)
        assert torch.equal(small.logits(job.model), small.logits(before.model)), "refused, and changed all the same"
        return
    small.after(job, second)
    expected = small.logits(job.model)
    assert expected.isfinite().all() and not torch.equal(expected, small.logits(before.model))
    for kind, parts in order.done(before.model).items():
        assert set(parts.split(", ")) <= set(order.done(job.model)[kind].split(", ")), f"{parts} of {first} are gone"
    plain, was, now = small.plain(), cost(first), without(job.model)
    for what in CLAIMS[small.method(first).kind]:
        by_chance = small.method(first).kind == "walk"  # how early a text may stop changes with the answers
        limit = 0.95 * plain[what] if by_chance else was[what] + 0.02 * plain[what]
        assert now[what] <= limit, f"{what} after {first} {was[what]:,.0f}, then {now[what]:,.0f} of {plain[what]:,.0f}"
    for what, share in CLAIMS[small.method(second).kind].items():
        assert now[what] < share * plain[what]
    artefact.save(job.model, tmp_path / "artefact", probe=small.batch(), verify=False)
    read = artefact.load(tmp_path / "artefact")
    assert torch.allclose(small.logits(read), expected, atol=1e-6, rtol=0)
    read, texts = small.precise(read), small.examples(8)
    alone = torch.cat([small.logits(read, small.batch([text])) for text in texts])
    assert small.alike(alone, small.logits(read, small.batch(texts, longest=15)))


def test_what_four_layers_are_too_few_for(tmp_path: Path) -> None:
    """Theseus halves, and then patience needs three layers: six do."""
    job = small.after(small.job(tmp_path, layers=6), "Theseus")
    made = small.after(small.again(job, tmp_path / "next"), "PABEE").model
    assert small.costs(made)["work"] < small.costs(job.model)["work"]


def test_a_whole_recipe_keeps_the_order(tmp_path: Path) -> None:
    job = small.after(small.job(tmp_path), "TinyBERT", "Share", "DRONE", "TernaryBERT", "Int8", "LTP", "PABEE")
    assert order.done(job.model).keys() == {"settle", "factor", "walk"}
    cost, plain = small.costs(job.model), small.plain()
    assert cost["bytes"] < 0.1 * plain["bytes"] and cost["work"] < 0.7 * plain["work"]
