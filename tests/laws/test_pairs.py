"""Law 8: with every other method, in both orders: works, or refuses with our sentence; what was done is still there."""

from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer import artefact, recipe
from gossamer.runtime.modules import IntLinear, LowRank, ScoreAttention, TernaryLinear
from gossamer.runtime.walks import Patience, Shared, TokenThreshold
from gossamer.train import drive
from tests.laws import effects, small

METHODS = small.names()
# why a pair is refused, by the kind of the second: what must stand in the sentence
REFUSED = {"begin": "begins a new student", "rearrange": "comes too late", "cut": "comes too late"}
TRACES: dict[str, tuple[type, ...]] = {
    "DRONE": (LowRank, ScoreAttention),
    "Int8": (IntLinear,),
    "LTP": (TokenThreshold,),
    "PABEE": (Patience,),
    "Share": (Shared,),
    "TernaryBERT": (TernaryLinear,),
}


def allowed(first: str, second: str) -> bool:
    """What the order law says of a pair."""
    rank = {"begin": 0, "rearrange": 1, "cut": 2, "factor": 3, "settle": 4}
    one, two = (recipe.methods()[n].kind for n in (first, second))  # type: ignore[attr-defined]
    if two == "begin" or (first == second and first in ("PABEE", "LTP", "Share", "DRONE", "Int8", "TernaryBERT")):
        return False
    if one == "walk":
        return two not in ("begin", "rearrange")
    if first == "Share" and two == "rearrange":
        return False  # its walk is in the way
    if {first, second} == {"Int8", "TernaryBERT"}:
        return first == "TernaryBERT"  # which leaves two tables to Int8
    return two == "walk" or rank[one] <= rank[two]


@pytest.mark.parametrize(("first", "second"), list(product(METHODS, METHODS)), ids="-".join)
def test_law_8(first: str, second: str, tmp_path: Path) -> None:
    text = f"then({small.form(first)}, {small.form(second)})"
    job = small.job(tmp_path / "work")
    if not allowed(first, second):
        with pytest.raises(ValueError, match=r"put|leave it out|use it once") as refusal:
            drive(job, recipe.parse(text))
        kind: str = recipe.methods()[second].kind  # type: ignore[attr-defined]
        if first != second and kind in REFUSED:
            assert REFUSED[kind] in str(refusal.value)
        return
    drive(job, recipe.parse(text))
    before = small.logits(job.model)
    assert before.isfinite().all()
    _still_there(job.model, first, second)
    artefact.save(deepcopy(job.model), tmp_path / "a", verify=False)
    again = artefact.load(tmp_path / "a")
    assert torch.allclose(small.logits(again), before, atol=1e-6)
    for i, example in enumerate(small.examples()[:4]):
        alone = {"input_ids": torch.tensor([example["input_ids"]])}
        alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        assert torch.allclose(small.logits(again, alone)[0], before[i], atol=1e-5)


def _still_there(model: Any, *names: str) -> None:
    for name in names:
        if name in TRACES:
            assert any(isinstance(m, TRACES[name]) for m in model.modules()), f"nothing is left of {name}"
        claim = effects.CLAIMS[name]
        if name != "CoFi":
            base = effects.measured(deepcopy(small.model()), claim)
            assert effects.measured(deepcopy(model), claim) < base, f"the effect of {name} is gone"
