"""Sharing: which layer plays where, what is stored, and what the model computes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gossamer.anatomy import blocks
from gossamer.methods.sharing.albert import Share, mean, positions
from tests import jobs


@pytest.mark.parametrize(
    ("layers", "groups", "order", "expected"),
    [
        (6, 3, "sequence", [0, 0, 1, 1, 2, 2]),
        (6, 3, "cycle", [0, 1, 2, 0, 1, 2]),
        (6, 3, "reversed", [0, 1, 2, 2, 1, 0]),
        (18, 6, "reversed", [*range(6), *range(6), *range(5, -1, -1)]),
        (12, 1, "sequence", [0] * 12),
        (4, 4, "sequence", [0, 1, 2, 3]),
        (4, 4, "cycle", [0, 1, 2, 3]),
    ],
)
def test_the_published_orders(layers: int, groups: int, order: str, expected: list[int]) -> None:
    assert positions(layers, groups, order) == expected


@given(st.integers(2, 48), st.data(), st.sampled_from(["sequence", "cycle", "reversed"]))
def test_every_stored_layer_plays_in_every_order(layers: int, data: Any, order: str) -> None:
    groups = data.draw(st.integers(1, layers - 1))
    found = positions(layers, groups, order)
    assert len(found) == layers and set(found) == set(range(groups))
    if order == "sequence":
        assert found == sorted(found) == [int(i / layers * groups + 1e-9) for i in range(layers)]


@pytest.mark.parametrize("order", ["sequence", "cycle", "reversed"])
@pytest.mark.parametrize("start", ["mean", "first"])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_model_is_a_loop_over_what_is_stored(tmp_path: Path, order: Any, start: Any, groups: int) -> None:
    at = jobs.job(tmp_path, layers=6)
    old = [copy.deepcopy(b.layer) for b in blocks(at.model)]
    stage = next(Share(groups, order, start)(at))
    assert stage.name == "relearn"
    place, stored = positions(6, groups, order), [b.layer for b in blocks(at.model)]
    assert len(stored) == groups
    by_hand = copy.deepcopy(at.teacher)
    by_hand.bert.encoder.layer = nn.ModuleList(copy.deepcopy(stored[i]) for i in place)
    batch = jobs.inputs(at)
    assert torch.allclose(jobs.logits(at.model, batch), jobs.logits(by_hand, batch), atol=1e-6)
    for group, layer in enumerate(stored):
        members = [o for o, p in zip(old, place, strict=True) if p == group][: None if start == "mean" else 1]
        for name, tensor in layer.state_dict().items():
            assert torch.allclose(tensor, torch.stack([m.state_dict()[name] for m in members]).mean(0), atol=1e-6)


@pytest.mark.parametrize("layers", [4, 6, 8])
def test_what_is_stored_does_not_depend_on_depth(tmp_path: Path, layers: int) -> None:
    at = jobs.job(tmp_path, layers=layers)
    one = sum(p.numel() for p in blocks(at.model)[0].layer.parameters())
    before = sum(p.numel() for p in at.model.parameters())
    jobs.run(at, Share(2))
    assert sum(p.numel() for p in at.model.parameters()) == before - (layers - 2) * one
    names = [k for k in at.model.state_dict() if "encoder.layer" in k and k.endswith("query.weight")]
    assert len(names) == len(blocks(at.model)) == 2


def test_relearning_reads_the_former_self(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    with torch.no_grad():
        at.model.classifier.bias.add_(3.0)  # no longer the job's teacher
    former = copy.deepcopy(at.model)
    stage = next(Share(2)(at))
    assert stage.teacher is not None and stage.teacher is not at.teacher
    batch = jobs.inputs(at)
    assert torch.equal(jobs.logits(stage.teacher, batch), jobs.logits(former, batch))
    assert repr(stage.loss) == "Task() + Logits(heat=2.0) + Hidden(width=32, teacher_width=32, below=0)"


def test_shared_layers_learn_from_every_position(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    next(Share(1)(at))
    given = at.collate(at.train[:4])
    at.model(**{k: v for k, v in given.items() if k != "index"}).loss.backward()
    together = blocks(at.model)[0].q.weight.grad.clone()
    by_hand = copy.deepcopy(at.teacher).requires_grad_(True)
    layer = blocks(at.model)[0].layer
    by_hand.bert.encoder.layer = nn.ModuleList(copy.deepcopy(layer) for _ in range(4))
    by_hand.zero_grad()
    by_hand(**{k: v for k, v in given.items() if k != "index"}).loss.backward()
    assert torch.allclose(together, sum(b.q.weight.grad for b in blocks(by_hand)), atol=1e-6)


def test_sharing_nothing_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 layers and 4 groups: nothing would be shared; type Share\(groups=2\)"):
        next(Share(4)(jobs.job(tmp_path)))


def test_layers_of_different_shapes_have_no_mean() -> None:
    with pytest.raises(ValueError, match=r"differ in shape .* put Share first"):
        mean([nn.Linear(3, 4), nn.Linear(3, 5)], nn.Linear(3, 4))
