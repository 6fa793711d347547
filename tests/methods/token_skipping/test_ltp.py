"""LTP: soft becomes hard, padding counts nowhere, and a price on tokens raises the thresholds."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.anatomy import blocks
from gossamer.methods.token_skipping.ltp import LTP, Kept
from gossamer.runtime.attention import Heard
from gossamer.runtime.passage import Passage
from gossamer.runtime.walks import TokenThreshold
from gossamer.train import Lesson, _marked, train
from tests import jobs
from tests.jobs import wider


def installed(tmp_path: Path, threshold: float = 0.15, family: str = "bert", **more: Any) -> Any:
    """A job whose thresholds were installed and not trained, its story, the first stage, and the thresholds."""
    at = jobs.job(tmp_path, family)
    story = LTP(threshold=threshold, **more)(at)
    stage = next(story)
    [way] = [m for m in at.model.modules() if isinstance(m, TokenThreshold)]
    return at, story, stage, way


def scores(way: TokenThreshold, model: Any, batch: Any) -> list[torch.Tensor]:
    """The importance of every token, by layer, as it was computed on the way."""
    found: list[torch.Tensor] = []
    original = TokenThreshold.importance

    def note(self: Any, passage: Passage, heard: Heard) -> torch.Tensor:
        found.append(original(self, passage, heard))
        return found[-1]

    way.importance = note.__get__(way)  # type: ignore[method-assign]
    try:
        jobs.logits(model, batch)
    finally:
        del way.importance
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_under_a_threshold_of_next_to_nothing_all_is_kept(tmp_path: Path, family: str) -> None:
    at, _, _, way = installed(tmp_path, 1e-4, family)
    way.soft, way.final = False, 1e-6
    batch = jobs.inputs(at)
    assert torch.allclose(jobs.logits(at.model, batch), jobs.logits(at.teacher, batch), atol=1e-5)


def test_the_threshold_grows_with_depth(tmp_path: Path) -> None:
    _, _, _, way = installed(tmp_path, 0.04)
    assert [float(way.threshold(i).detach()) for i in range(4)] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    way.delta.data[2] = 0.5
    assert float(way.threshold(2).detach()) == pytest.approx(0.53)
    assert float(way.delta.detach().abs().sum()) == 0.5  # learned from zero


def test_importance_is_the_attention_received_over_one_length_for_all(tmp_path: Path) -> None:
    at, _, _, way = installed(tmp_path, 1e-4)
    way.soft, way.final = False, 0.0
    batch = jobs.inputs(at, 3)
    found = scores(way, at.model, batch)
    from gossamer.trace import tracing

    with tracing(at.teacher, attention=True) as seen, torch.no_grad():
        at.teacher(**batch)
    for layer, (mine, heard) in enumerate(zip(found, seen.heard, strict=True)):
        for row in range(3):
            n = int(batch["attention_mask"][row].sum())
            expected = heard.probs[row, :, :n, :n].mean(0).sum(0) / 128
            assert torch.allclose(mine[row, :n], expected, atol=1e-5), layer
            assert float(mine[row, :n].mean()) == pytest.approx(1 / 128, abs=1e-5), "the same for short and long texts"
    padded = scores(way, at.model, wider(batch, 8))
    assert all(torch.allclose(a, b[:, : a.shape[1]], atol=1e-5) for a, b in zip(found, padded, strict=True))


def test_a_cold_soft_mask_is_the_hard_one(tmp_path: Path) -> None:
    """Its weights become 0 and 1, on the same tokens that are let go of first."""
    at, _, _, way = installed(tmp_path, 0.4)
    batch = jobs.inputs(at, 8)
    way.heat = 1e-9
    weights: list[torch.Tensor] = []
    original = TokenThreshold.between

    def note(passage: Passage, heard: Heard | None) -> None:
        original(way, passage, heard)
        weights.append(passage.marks["weight"].clone())

    way.between = note  # type: ignore[method-assign]
    jobs.logits(at.model, batch)
    del way.between
    real = batch["attention_mask"].bool()
    assert set(weights[0][real].unique().tolist()) == {0.0, 1.0}
    way.soft, way.gathers = False, False
    kept: list[torch.Tensor] = []

    def watch(passage: Passage, heard: Heard | None) -> None:
        original(way, passage, heard)
        assert passage.going is not None
        kept.append(passage.going & passage.living)

    way.between = watch  # type: ignore[method-assign]
    jobs.logits(at.model, batch)
    later = torch.arange(real.shape[1]) > 0  # the first token is never let go of
    assert torch.equal(weights[0].bool()[real & later], kept[0][real & later])
    assert all(bool((b <= a)[real].all()) for a, b in pairwise(kept))


def test_gathered_is_masked_after_training(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, LTP(threshold=0.3, threshold_lr=0.01))
    [way] = [m for m in at.model.modules() if isinstance(m, TokenThreshold)]
    assert not way.soft
    batch, lengths = jobs.inputs(at, 8), list[int]()
    for block in blocks(at.model):
        block.layer.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    gathered = jobs.logits(at.model, batch)
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] < lengths[0]
    way.gathers = False
    assert torch.allclose(jobs.logits(at.model, batch), gathered, atol=1e-5)


def test_a_price_on_tokens_raises_the_thresholds(tmp_path: Path) -> None:
    at, _, _, way = installed(tmp_path, 0.1, heat=0.05)
    at.model.train()
    at.model(**jobs.inputs(at))
    price = Kept(way)(None)  # type: ignore[arg-type]
    price.backward()
    assert way.delta.grad is not None and bool((way.delta.grad < 0).all())  # descending raises them
    assert 0 < float(price.detach()) < 4


def test_the_price_counts_real_tokens(tmp_path: Path) -> None:
    at, _, _, way = installed(tmp_path, 0.1, heat=0.05)
    batch = jobs.inputs(at)
    prices = []
    for given in (batch, wider(batch, 7)):
        jobs.logits(at.model, given)
        prices.append(float(Kept(way)(None)))  # type: ignore[arg-type]
    assert prices[1] == pytest.approx(prices[0], rel=1e-4)


def test_first_thresholds_and_weights_learn_then_weights_alone(tmp_path: Path) -> None:
    at, story, soft, way = installed(tmp_path, 0.1, heat=0.05, threshold_lr=0.01)
    lesson = Lesson(at.model.train(), soft.loss, None)
    before = copy.deepcopy(_marked(soft, lesson))
    lesson(**at.collate(at.train[:8]))["loss"].backward()
    assert before and all(p.grad is not None for p in at.model.parameters())
    at.model.zero_grad()
    train(at, soft)
    learned = way.delta.detach().clone()
    assert bool((learned != 0).all())
    hard = next(story)
    assert not way.soft and repr(hard.loss) == "Task()" and hard.lr == pytest.approx(soft.lr / 2)
    weight = blocks(at.model)[0].up.weight.detach().clone()
    train(at, hard)
    assert torch.equal(way.delta, learned) and not torch.equal(blocks(at.model)[0].up.weight, weight)


def test_an_answer_depends_on_neither_batch_mates_nor_padding(tmp_path: Path) -> None:
    at, _, _, way = installed(tmp_path, 0.3)
    way.soft = False
    batch = jobs.inputs(at, 8)
    together = jobs.logits(at.model, batch)
    assert torch.allclose(jobs.logits(at.model, wider(batch)), together, atol=1e-5)
    for i in range(8):
        n = int(batch["attention_mask"][i].sum())
        alone = jobs.logits(at.model, {k: v[i : i + 1, :n] for k, v in batch.items()})
        assert torch.allclose(alone[0], together[i], atol=1e-5)
