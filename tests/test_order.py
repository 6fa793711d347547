"""The order law in words: what comes too late says so, by what stands in the model and not by who put it there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gossamer.order import LAW, allow, done
from gossamer.runtime.modules import IntLinear, LowRank, ScoreAttention, TernaryEmbedding
from gossamer.runtime.trigrams import Trigrams
from gossamer.runtime.walks import Shared
from gossamer.train import also, drive, then
from gossamer.walking import walk
from tests import small, tiny


def put(model: Any, part: nn.Module) -> Any:
    model.bert.encoder.layer[0].intermediate.dense = part
    return model


def walked(model: Any, way: Any) -> Any:
    walk(model, way)
    return model


FOUND: dict[str, tuple[Callable[[Any], Any], dict[str, str]]] = {
    "nothing": (lambda m: m, {}),
    "integers": (lambda m: put(m, IntLinear(32, 64)), {"settle": "IntLinear"}),
    "factors": (lambda m: put(m, LowRank(32, 4, 64)), {"factor": "LowRank"}),
    "ternary": (lambda m: put(m, TernaryEmbedding(4, 4)), {"settle": "TernaryEmbedding"}),
    "table": (lambda m: put(m, Trigrams(8, 4, 0, 0, "", 3)), {"table": "Trigrams"}),
    "shared": (lambda m: walked(m, Shared([0, 0, 1, 1])), {"walk": "Shared"}),
    "exits": (lambda m: walked(m, tiny.patience(["bert.pooler"], 4, 32, 2, 1)), {"walk": "Exits"}),
    "scores": (
        lambda m: put(m, ScoreAttention(["query", "key", "value"], 32, 4, 4, 8, 1.0, 0.0)),
        {"factor": "ScoreAttention"},
    ),
}  # fmt: skip
LATE: dict[str, tuple[str, ...]] = {
    "rearrange": ("settle", "factor", "table", "walk"), "cut": ("settle", "factor", "table"),
    "factor": ("settle", "table"), "table": ("settle", "table", "walk"), "settle": (), "walk": (),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_has_been_done_is_read_off_the_model(name: str) -> None:
    make, expected = FOUND[name]
    assert done(make(small.model())) == expected


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize("name", FOUND)
def test_what_comes_too_late_is_refused(name: str, kind: str) -> None:
    make, found = FOUND[name]
    method = type("Mine", (), {"kind": kind})()
    if set(found) & set(LATE[kind]):
        with pytest.raises(ValueError) as told:
            allow(make(small.model()), method)
        part = next(iter(found.values()))
        assert str(told.value).startswith(f"Mine comes too late: the model already holds {part}; put Mine first. ")
        assert LAW in str(told.value)
    else:
        allow(make(small.model()), method)


@pytest.mark.parametrize("name", FOUND)
def test_a_beginning_comes_first(name: str) -> None:
    make, found = FOUND[name]
    begin: Any = SimpleNamespace(kind="begin")
    if not found:
        allow(small.model(), begin)
        return
    with pytest.raises(ValueError, match=r"begins a new student, which would lose .* \(found: \w+\); put \w+ first"):
        allow(make(small.model()), begin)


def test_a_beginning_comes_first_where_a_plain_model_is_left(tmp_path: Path) -> None:
    model = small.model()
    model.bert.encoder.layer[1].output.dense = nn.Linear(48, 32)
    model.bert.encoder.layer[1].intermediate.dense = nn.Linear(32, 48)
    with pytest.raises(ValueError, match=r"\(found: changed shapes\)"):
        allow(model, SimpleNamespace(kind="begin"))
    job = small.after(small.job(tmp_path), "Theseus")  # a plain BERT of two layers again
    assert job.did == ["Theseus"]
    with pytest.raises(ValueError, match=r"TinyBERT begins a new student, .* \(found: Theseus\); put TinyBERT first"):
        drive(job, then(also(small.method("TinyBERT"), object), small.method("Int8")))


def test_each_method_of_a_recipe_is_asked_when_its_turn_comes(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    with pytest.raises(ValueError, match="Share comes too late: the model already holds IntEmbedding, IntLinear"):
        drive(job, then(then(small.method("Int8")), small.method("Share")))
    assert job.did == ["Int8"] and torch.isfinite(small.logits(job.model)).all()
