"""What all methods of token skipping have in common: masked is gathered, the first token stays, sets are nested."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer import calibrate, lengths, recipe
from gossamer.loss import Task
from gossamer.measure.layers import watching
from gossamer.measure.macs import count
from gossamer.methods.token_skipping import lat, power_bert, tr_bert
from gossamer.runtime.attention import weighing
from gossamer.runtime.tokens import Policy, Ranked
from gossamer.runtime.walks import TokenThreshold, Walk, in_full
from gossamer.task import (
    Classification,
    QuestionAnswering,
    Regression,
    Said,
    SentenceEmbedding,
    TokenClassification,
)
from gossamer.trace import tracing
from gossamer.train import Lesson
from gossamer.walking import walk
from tests import small

NAMES = [n for n, method in recipe.methods().items() if method.__module__.split(".")[-2] == "token_skipping"]


def way(model: Any) -> Any:
    return next(m for m in model.modules() if isinstance(m, Walk) and m.dynamic)


@pytest.fixture(scope="module", params=NAMES)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small.after(small.job(tmp_path_factory.mktemp("job")), request.param)


def test_masked_is_gathered(made: Any) -> None:
    """Property 7: hidden as keys and ignored as queries, or gone."""
    given = small.batch(small.examples(12))
    gathered = small.logits(made.model, given)
    with in_full(made.model):
        assert torch.allclose(small.logits(made.model, given), gathered, atol=1e-5)
    assert torch.allclose(small.logits(made.model, small.batch(small.examples(12), 25)), gathered, atol=1e-5)


def test_tokens_leave_and_never_come_back(made: Any) -> None:
    alive = list[int]()
    for text in small.examples(12):
        with watching(made.model) as seen:
            small.logits(made.model, small.batch([text]))
        counts = [tokens for _, tokens in seen]
        assert counts == sorted(counts, reverse=True) and min(counts) >= 1
        alive.append(sum(counts) - 4 * len(text["input_ids"]))
    assert sum(alive) < 0, "somebody has left"


def test_use_is_not_by_chance(made: Any) -> None:
    """Property 15."""
    torch.manual_seed(0)
    first = small.logits(made.model)
    torch.manual_seed(1)
    assert torch.equal(small.logits(made.model), first)


def test_each_token_ends_where_it_left(made: Any) -> None:
    """Property 8: the last hidden state of a token that left is the one it had when it left."""
    given = small.batch([max(small.examples(12), key=lambda e: len(e["input_ids"]))])
    kept: dict[int, Tensor] = {}
    stack = made.model.bert.encoder.layer
    original = type(stack)._walk

    def note(self: Any, passage: Any, *args: Any) -> Any:
        aside = passage._lay_aside

        def lay(rows: Tensor, tokens: Tensor | None = None) -> None:
            aside(rows, tokens)
            if tokens is not None:
                kept.update({int(p): x.clone() for p, x in zip(passage.tokens[tokens], passage.x[tokens], strict=True)})

        passage._lay_aside = lay
        return original(self, passage, *args)

    type(stack)._walk = note
    try:
        last = made.model.bert(**given).last_hidden_state[0]
    finally:
        type(stack)._walk = original
    assert kept and all(torch.allclose(last[p], x, atol=1e-6) for p, x in kept.items())


# --- by rank ---------------------------------------------------------------------------------------------------------


def installed(walk_: Walk, tmp_path: Path) -> Any:
    job = small.job(tmp_path)
    walk(job.model, walk_)
    return job


@pytest.mark.parametrize("own", [False, True])
def test_a_full_schedule_is_the_whole_model(own: bool, tmp_path: Path) -> None:
    job = installed(Ranked(4, [1.0] * 4, own), tmp_path)
    assert torch.allclose(small.logits(job.model), small.logits(job.teacher), atol=1e-5)
    weighed = installed(Ranked(4, [1.0] * 4, own, bins=8), tmp_path / "w")
    assert torch.allclose(small.logits(weighed.model), small.logits(job.teacher), atol=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
def test_the_share_is_rounded_up(share: float, tmp_path: Path) -> None:
    job = installed(Ranked(4, [share] * 4), tmp_path)
    for text in small.examples(8):
        n = len(text["input_ids"])
        with watching(job.model) as seen:
            small.logits(job.model, small.batch([text]))
        assert [tokens for _, tokens in seen] == [n, *[math.ceil(share * n - 1e-4)] * 3]


def test_the_best_heard_stay(tmp_path: Path) -> None:
    """By hand: the mean over heads of what the others pay to a token, the first one always."""
    job = installed(Ranked(4, [0.5] * 4), tmp_path)
    text = max(small.examples(12), key=lambda e: len(e["input_ids"]))
    with tracing(job.teacher, attention=True) as seen, torch.no_grad():
        job.teacher(**small.batch([text]))
    probs = seen.heard[0].probs.mean(1)[0]
    score = probs.sum(0) - probs.diagonal()
    score[0] = 1e9
    wanted = set(score.topk(math.ceil(len(score) / 2)).indices.tolist())
    found: set[int] = set()
    stack, original = job.model.bert.encoder.layer, None
    original = type(stack)._walk

    def note(self: Any, passage: Any, *args: Any) -> Any:
        out = original(self, passage, *args)
        found.update(passage.tokens[0].tolist())
        return out

    type(stack)._walk = note
    try:
        small.logits(job.model, small.batch([text]))
    finally:
        type(stack)._walk = original
    assert found == wanted


def test_what_is_left_of_the_weights_is_what_stays() -> None:
    kept = torch.tensor([[1.0, 1.0, 0.6, 0.2], [1.0, 0.4, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    found = power_bert.shares(kept)
    assert found == pytest.approx([0.7, 0.35, 0.35])


# --- lengths ---------------------------------------------------------------------------------------------------------


def test_lengths_never_grow_and_stay_in_bounds(tmp_path: Path) -> None:
    cost = lengths.Cost(small.job(tmp_path).model, [8])
    least, best = cost.constant(0.2), [cost.constant(d) for d in (0.0, 0.1, 0.2)]
    for child in lengths.offspring(best, 200, random.Random(0), least):
        assert all(a >= b - 1e-3 for a, b in zip((1.0, *child), child, strict=False))
        assert all(one >= low - 1e-3 for one, low in zip(child, least, strict=True))


def test_what_is_found_fits_and_is_the_best_that_was_asked(tmp_path: Path) -> None:
    """Quality that falls with cost: the dearest that fits; and cheap ones of equal quality before dear ones."""
    cost = lengths.Cost(small.job(tmp_path).model, [8, 12, 20])
    asked: list[lengths.Lengths] = []

    def quality(one: lengths.Lengths) -> float:
        asked.append(one)
        return cost.of(one)

    found = lengths.search(cost, quality, 0.85, 0.2, 4, random.Random(0), range(3))
    assert cost.of(found) == max(c for c in map(cost.of, asked) if c <= 0.85) and len(asked) == len(set(asked))
    flat = lengths.search(cost, lambda one: 1.0, 0.85, 0.2, 4, random.Random(0), range(3))
    assert cost.of(flat) == cost.of(cost.constant(0.2))


def test_the_cost_is_that_of_the_counter(tmp_path: Path) -> None:
    """Property 9: analytic, and counted by the dispatcher, within 1 %."""
    schedule = [0.6, 0.6, 0.35, 0.35]
    job = installed(Ranked(4, schedule, own=True), tmp_path)
    text = [max(small.examples(12), key=lambda e: len(e["input_ids"]))]
    cost = lengths.Cost(job.model, [len(text[0]["input_ids"])])
    ranked = way(job.model)
    macs = {}
    for shares in ([1.0] * 4, schedule):
        ranked.shares = shares
        macs[tuple(shares)] = count(lambda: small.logits(job.model, small.batch(text)))
    whole, less = macs.values()
    head = whole - cost.sum([1.0] * 4)
    expected = cost.sum(schedule) + head
    assert abs(less - expected) <= 0.01 * less and head < 0.05 * whole


# --- learned choices -------------------------------------------------------------------------------------------------


def policy(tmp_path: Path, deep: bool, places: list[int] | None = None) -> Any:
    job = installed(Policy(4, 32, places or [1, 2], hidden=8, deep=deep), tmp_path)
    return job, way(job.model)


@pytest.mark.parametrize("deep", [False, True])
def test_keeping_everything_is_the_whole_model(deep: bool, tmp_path: Path) -> None:
    job, chosen = policy(tmp_path, deep)
    for net in chosen.nets:
        net[-1].bias.data.copy_(torch.tensor([-20.0, 20.0]))
    assert torch.allclose(small.logits(job.model), small.logits(job.teacher), atol=1e-5)


def test_skimming_begins_with_all(tmp_path: Path) -> None:
    job, chosen = policy(tmp_path, True, [0, 1, 2, 3])
    chosen.mode = "soft"
    job.model.train()
    torch.manual_seed(0)
    job.model(**small.batch())
    assert float(chosen.share().mean().detach()) > 0.99


def test_soft_choices_are_hard_ones_with_a_gradient(tmp_path: Path) -> None:
    """The masked softmax of training equals gathered tokens, layer by layer, when choices are certain."""
    job, chosen = policy(tmp_path, True, [0, 1, 2, 3])
    torch.manual_seed(3)
    for net in chosen.nets:
        net[-1].weight.data.normal_(std=20000.0)
        net[-1].bias.data.zero_()
    for module in job.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wanted = small.logits(job.model.eval())
    chosen.mode = "soft"
    job.model.eval()
    chosen.training = True
    found = job.model(**small.batch()).logits
    assert torch.allclose(found, wanted, atol=1e-4)
    for net in chosen.nets:
        net[-1].weight.data.normal_(std=1.0)
    job.model(**small.batch()).logits.sum().backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in chosen.parameters() if p.grad is not None)


def test_weights_of_nought_are_keys_that_are_not_there() -> None:
    from gossamer.runtime.attention import attention

    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    keys = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]])
    with weighing(keys):
        found, _ = attention(torch.nn.Module(), q, k, v)
    there = [0, 2, 3]
    with weighing(torch.ones(1, 3)):
        expected, _ = attention(torch.nn.Module(), q[:, :, there], k[:, :, there], v[:, :, there])
    assert torch.allclose(found[:, there], expected, atol=1e-6)


def test_the_price_reaches_the_choosers(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    stage = next(small.method("Transkimmer")(job))
    lesson = Lesson(job.model.train(), stage.loss.terms[1], None)
    lesson(**job.collate(job.train[:8]))["loss"].backward()
    chosen = way(job.model)
    assert all(p.grad is not None for p in chosen.nets[0].parameters())
    assert job.model.classifier.weight.grad is None


def test_the_policy_gradient_is_the_analytic_one(tmp_path: Path) -> None:
    """One token to choose, reward 1 if it is kept: dE[R] / dz = p (1 - p), the baseline changing nothing."""
    job, chosen = policy(tmp_path, False, [1])
    z = torch.tensor([0.3, -0.2])
    p = float(z.softmax(0)[1])
    chosen.nets[0][-1].weight.data.zero_()
    chosen.nets[0][-1].bias.data.copy_(z)
    chosen.mode = "sample"
    chosen.train()
    given = small.batch([{"input_ids": [5, 6], "labels": 0}] * 64)
    grads = []
    torch.manual_seed(0)
    for _ in range(60):
        rewards, logs = [], []
        for _ in range(4):
            job.model.eval()
            chosen.training = True
            with torch.no_grad():
                job.model(**given)
            rewards.append(chosen.acts[0][3][:, 1].float())
            logs.append(chosen.log_prob())
        reward = torch.stack(rewards)
        loss = -((reward - reward.mean(0)) * torch.stack(logs)).mean() * 4 / 3  # a mean of which each is a part
        [grad] = torch.autograd.grad(loss, [chosen.nets[0][-1].bias])
        grads.append(-float(grad[1]))
    assert sum(grads) / len(grads) == pytest.approx(p * (1 - p), abs=0.01)


def test_by_the_rule_as_many_go_on_as_by_chance(tmp_path: Path) -> None:
    """Place after place, of a policy that is sure of nothing; one that is sure is left as it is."""
    job = small.job(tmp_path)
    policy = Policy(4, job.model.config.hidden_size, [1, 2])
    walk(job.model, policy)
    for net in policy.nets:
        for weight in (one for one in net.parameters() if one.ndim == 2):
            torch.nn.init.normal_(weight, std=0.1)
        net[-1].bias.data = torch.tensor([2.0, 0.0])  # type: ignore[index]
    policy.rest()
    calibrate.even(job.model, policy, lambda: job.asked(job.train[:16]))
    moved = [float(net[-1].bias.detach()[0]) - 2 for net in policy.nets]  # type: ignore[index]
    for now, shift in zip(calibrate.odds(job.model, policy, job.asked(job.train[:16])), moved, strict=True):
        wanted = float((now + shift).sigmoid().sum())
        assert abs(float((now >= 0).sum()) - wanted) <= 1, "as before the shift, by chance"
        assert 0 < wanted < len(now)
    assert abs(moved[0]) > 0.5, "a half would not have done"

    sure = torch.tensor([30.0, 25.0, -30.0, -25.0, 20.0, -28.0])
    assert ((sure > calibrate.boundary(sure)) == (sure > 0)).all()
    for all_ in (sure.abs(), -sure.abs(), sure[:0]):
        assert float(calibrate.boundary(all_)) == 0, "all of them or none"


def test_what_a_token_matters_is_asked_of_the_whole_model(tmp_path: Path) -> None:
    """Whatever the policy thinks: else nobody could be brought back."""
    job = small.job(tmp_path)
    next(small.method("TRBERT")(job))
    chosen = way(job.model)
    reinforce = tr_bert.Reinforce(job, chosen, 1.0, 2, 1.0)
    found = []
    for bias in (-20.0, 20.0):
        for net in chosen.nets:
            net[-1].bias.data.copy_(torch.tensor([-bias, bias]))
        found.append(reinforce.worth(job.collate(job.train[:4])))
    assert torch.equal(*found) and bool((found[0] > 0).any(1).all())


def test_layers_that_are_left_out_change_no_numbers(tmp_path: Path) -> None:
    """LayerDrop: another walk's places are those of the model."""
    job = installed(Ranked(4, [1.0] * 4), tmp_path)
    ranked, asked = way(job.model), []
    ranked.playing = [False, False, True, True]
    ranked.depart = lambda passage: asked.append(passage.step)
    small.logits(job.model)
    assert asked == [2, 3]


def test_what_costs_too_much_is_told_before_anything_is_learned(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    with pytest.raises(ValueError, match=r"found keep=0.1, and with drop=0.2 these .* cost 0.\d+ .*; type LAT\("):
        next(recipe.methods()["LAT"](keep=0.1)(job))


@pytest.mark.parametrize("other", [Ranked(4, [1.0, 0.5, 0.5, 0.5]), TokenThreshold(4, 0.3, length=16)])
def test_others_see_what_is_skimmed_as_gone(other: Walk, tmp_path: Path) -> None:
    """In training as in use, when choices are certain."""
    job, chosen = policy(tmp_path, True, [0, 1, 2, 3])
    walk(job.model, other)
    torch.manual_seed(3)
    for net in chosen.nets:
        net[-1].weight.data.normal_(std=20000.0)
        net[-1].bias.data.zero_()
    wanted = small.logits(job.model.eval())
    chosen.mode, chosen.training = "soft", True
    with in_full(job.model), torch.no_grad():
        found = job.model(**small.batch()).logits
    assert torch.allclose(found, wanted, atol=1e-4)


def test_each_text_has_its_own_loss() -> None:
    """Of a class, of numbers, of words, of the ends of a passage: as the plain formula says."""
    z, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    each = F.cross_entropy(z, y, reduction="none")
    assert torch.allclose(Classification(("a", "b", "c")).errors(Said(None, z), {"labels": y}), each)
    numbers = Said(None, z[:, :1], numbers=True)
    assert torch.allclose(Regression().errors(numbers, {"labels": y}), (z[:, 0] - y).square())
    assert torch.allclose(SentenceEmbedding(top=5.0).errors(numbers, {"labels": y}), (z[:, 0] - y / 5).square())
    tags = torch.tensor([[-100, 0, 2], [1, -100, -100]])
    words = TokenClassification(("a", "b", "c")).errors(Said(None, z[:3]), {"labels": tags})
    by_hand = F.cross_entropy(z[:3], torch.tensor([0, 2, 1]), reduction="none")
    assert torch.allclose(words, torch.stack([by_hand[:2].mean(), by_hand[2]]))
    ends = {"start_positions": y[:2], "end_positions": y[2:]}
    assert torch.allclose(QuestionAnswering().errors(Said(None, z), ends), torch.stack([each[:2], each[2:]]).mean(0))


def sandwich(tmp_path: Path, samples: int) -> tuple[Any, Any, dict[str, Tensor]]:
    """A job whose model is to learn from LAT's loss, that as a lesson, and a batch."""
    job = installed(Ranked(4, [1.0] * 4, own=True), tmp_path / str(samples))
    told = recipe.methods()["LAT"](samples=samples, drop=0.5)
    lesson = Lesson(job.model, 0.5 * (Task() + lat.Sandwich(job, way(job.model), told)), None, job.task)
    return job, lesson.train(), job.collate(small.examples(12))


def test_lengths_teach_in_turn_what_they_teach_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for together in (False, True):
        if together:
            monkeypatch.setattr(lat, "in_turn", lambda pieces, learning: torch.stack([one() for one in pieces]).sum())
        job, lesson, batch = sandwich(tmp_path, 3)
        torch.manual_seed(0)
        loss = lesson(**batch)["loss"]
        (3 * loss).backward()
        found.append((loss.detach(), {n: p.grad for n, p in job.model.named_parameters()}))
    (one, grads), (other, wanted) = found
    assert torch.allclose(one, other) and any(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    for name, grad in grads.items():
        assert (grad is None) == (wanted[name] is None), name
        assert grad is None or torch.allclose(grad, wanted[name], atol=1e-6), name
