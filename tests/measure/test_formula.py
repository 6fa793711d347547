"""Arithmetic and counter agree to one per cent, whatever was cut."""

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks
from gossamer.gates import compact
from gossamer.measure import formula, macs
from tests import small, tiny

FAMILIES = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet")


def counted(model: nn.Module, tokens: int) -> int:
    ids = torch.full((1, tokens), 7)
    with torch.no_grad():
        return macs.count(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))


@pytest.mark.parametrize("tokens", [3, 17, 48])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_counter_agrees_with_arithmetic(family: str, tokens: int) -> None:
    model = tiny.build(family, "classes")
    assert counted(model, tokens) == pytest.approx(formula.encoder(model, tokens), rel=0.01)


def test_uneven_cuts_and_dead_sublayers_are_seen() -> None:
    model = small.model()
    before = formula.encoder(model, 12)
    with torch.no_grad():
        first, second, third = blocks(model)[:3]
        first.o.weight[:, :8] = 0
        second.down.weight[:, ::2] = 0
        third.o.weight.zero_()
        third.o.bias.zero_()
    compact(model)
    assert formula.encoder(model, 12) < before
    assert counted(model, 12) == pytest.approx(formula.encoder(model, 12), rel=0.01)


@pytest.mark.parametrize("name", ["DRONE", "Share"])
def test_low_rank_pairs_and_shared_layers(name: str, tmp_path: pytest.TempPathFactory) -> None:
    model = small.after(small.job(tmp_path), name).model  # type: ignore[arg-type]
    assert counted(model, 12) == pytest.approx(formula.encoder(model, 12), rel=0.01)


def test_two_towers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depends on what it writes; count it with macs.count"):
        formula.encoder(tiny.build("t5", "seq2seq"), 5)
