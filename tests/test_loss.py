"""Losses: nothing to learn from oneself, nothing to learn from padding, and the published weights."""

import copy
import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.loss import (
    ALL,
    Attention,
    EveryExit,
    Hidden,
    Logits,
    Loss,
    NearestHidden,
    Reads,
    Step,
    Sum,
    Task,
    masked_mse,
)
from gossamer.runtime.walks import in_full
from gossamer.teacher import Remembered, Teacher
from gossamer.trace import Trace, tracing
from gossamer.train import Lesson
from gossamer.walking import depth, features, walk
from tests import tiny
from tests.jobs import texts, wider

WIDE = 32


def made(layers: int = 4, seed: int = 0, **more: Any) -> Any:
    return tiny.build("bert", "classes", seed=seed, num_hidden_layers=layers, num_labels=2, **more)


def padded(examples: list[dict[str, Any]], longest: int = 0) -> dict[str, Tensor]:
    size = max(longest, *(len(e["input_ids"]) for e in examples))
    ids = [e["input_ids"] + [0] * (size - len(e["input_ids"])) for e in examples]
    mask = [[1] * len(e["input_ids"]) + [0] * (size - len(e["input_ids"])) for e in examples]
    labels = [e["labels"] for e in examples]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def step(student: nn.Module, teacher: nn.Module, loss: Loss, batch: dict[str, Tensor]) -> Step:
    """What the training loop would hand to the loss."""
    with tracing(student, hidden=True, attention=True) as seen:
        seen.out = student(**batch)
    taught = Teacher(teacher, loss.reads)(batch) if loss.reads.teacher else None
    return Step(seen, taught, batch, 0.5)


LIKENESS: dict[str, Any] = {
    "logits": lambda: Logits(),
    "hot logits": lambda: Logits(heat=4.0),
    "hidden": lambda: Hidden(WIDE, WIDE),
    "attention": lambda: Attention(),
    "nearest": lambda: NearestHidden(WIDE, WIDE, 4),
    "nearest two": lambda: NearestHidden(WIDE, WIDE, 2, "monotone"),
    "all at once": lambda: Logits() + 0.5 * Hidden(WIDE, WIDE) + Attention() + NearestHidden(WIDE, WIDE, 3),
}


@pytest.mark.parametrize("name", LIKENESS)
def test_there_is_nothing_to_learn_from_oneself(name: str) -> None:
    model, loss = made(), LIKENESS[name]()
    found = loss(step(model, copy.deepcopy(model), loss, padded(texts(6))))
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-4 for p in model.parameters())


@pytest.mark.parametrize("name", LIKENESS)
def test_from_another_there_is(name: str) -> None:
    """And it can be learnt: a step along the gradient makes every one of them smaller."""
    model, teacher, loss = made(), made(seed=1), LIKENESS[name]()
    batch = padded(texts(6))
    before = loss(step(model, teacher, loss, batch))
    before.backward()
    before = before.detach()
    with torch.no_grad():
        slope = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.01 * float(before) / slope * p.grad
    assert float(before) > 0.01
    assert float(loss(step(model, teacher, loss, batch)).detach()) < float(before)


@pytest.mark.parametrize("name", [*LIKENESS, "task", "narrow student"])
def test_padding_changes_no_loss(name: str) -> None:
    """Neither its value nor, through the model, its gradient."""
    student = made(layers=2, hidden_size=16) if name == "narrow student" else made(seed=2)
    kinds: dict[str, Any] = LIKENESS | {
        "task": lambda: Task(),
        "narrow student": lambda: Hidden(16, WIDE) + Attention() + NearestHidden(16, WIDE, 2),
    }
    loss, teacher = kinds[name](), made(seed=1)
    batch = padded(texts(5))
    values, slopes = [], []
    for given_ in (batch, wider(batch, 7)):
        student.zero_grad()
        value = loss(step(student, teacher, loss, given_))
        value.backward()
        values.append(float(value.detach()))
        slopes.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert torch.allclose(slopes[0], slopes[1], atol=1e-5 * max(1.0, float(slopes[0].abs().max())))


@pytest.mark.parametrize("name", LIKENESS)
def test_what_is_written_at_padding_does_not_matter(name: str) -> None:
    """Numbers at padding of either side, however large, add nothing."""
    student, teacher, loss = made(seed=2), made(seed=1), LIKENESS[name]()
    batch = padded(texts(5))
    seen = step(student, teacher, loss, batch)
    before = float(loss(seen).detach())
    pad = ~batch["attention_mask"].bool()
    assert pad.any()
    seen.student.hidden = [h.masked_fill(pad[..., None], 1000.0) for h in seen.student.hidden]
    seen.taught.hidden = [h.masked_fill(pad[..., None], -77.0) for h in seen.taught.hidden]
    assert float(loss(seen).detach()) == pytest.approx(before, rel=1e-5)
    assert all(not s[:, 0][pad[:, :, None] | pad[:, None, :]].any() for s in seen.student.scores)


@pytest.mark.parametrize("name", [*LIKENESS, "narrow"])
def test_gradients_reach_the_student_and_the_projection_only(name: str) -> None:
    student, teacher = made(), made(seed=1)
    loss = NearestHidden(WIDE, WIDE) + Hidden(WIDE, WIDE) if name == "narrow" else LIKENESS[name]()
    teacher.requires_grad_(True)
    loss(step(student, teacher, loss, padded(texts(5)))).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in loss.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


# --- one by one ------------------------------------------------------------------------------------------------------


def seen(logits: Tensor, hidden: Any = (), mask: Tensor | None = None, loss: Tensor | None = None) -> Trace:
    return Trace(out=SimpleNamespace(logits=logits, loss=loss), hidden=list(hidden), mask=mask)


@pytest.mark.parametrize("heat", [1.0, 2.0, 5.0])
def test_soft_cross_entropy_is_the_published_one(heat: float) -> None:
    torch.manual_seed(0)
    s, t = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    found = Logits(heat)(Step(seen(s), seen(t), {}, 0.0))
    p, q = (t / heat).softmax(-1), (s / heat).softmax(-1)
    assert torch.allclose(found, heat**2 * (p * (p / q).log()).sum(-1).mean())
    found.backward()
    assert s.grad is not None and torch.allclose(s.grad, heat * (q - p).detach() / 5, atol=1e-6)


def test_one_answer_is_compared_by_its_square() -> None:
    s, t = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    assert float(Logits(7.0)(Step(seen(s), seen(t), {}, 0.0))) == pytest.approx(2.5)


def test_the_mean_is_over_real_tokens_and_features() -> None:
    a, mask = torch.zeros(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    b = torch.tensor([[1.0, 2, 9], [3, 9, 9]])[..., None].expand(2, 3, 4)
    assert float(masked_mse(a, b, mask)) == pytest.approx((1 + 4 + 9) / 3)


@pytest.mark.parametrize(("deep", "shallow"), [(12, 4), (6, 3), (4, 2), (4, 4), (6, 4)])
def test_layers_are_mapped_evenly(deep: int, shallow: int) -> None:
    """12 -> 4: hidden 0, 3, 6, 9, 12 and scores 3, 6, 9, 12, as the official code does."""
    mask = torch.ones(1, 2).bool()
    hidden = [torch.full((1, 2, 3), float(i)) for i in range(deep + 1)]
    scores = [torch.full((1, 1, 2, 2), float(i)) for i in range(1, deep + 1)]
    mapped = [(2 * i * deep + shallow) // (2 * shallow) for i in range(1, shallow + 1)]
    assert (deep, shallow) != (12, 4) or mapped == [3, 6, 9, 12]
    student = Remembered(hidden=[hidden[0], *(hidden[i] for i in mapped)], pairs=[scores[i - 1] for i in mapped])
    student.mask = mask
    taught = Remembered(hidden=hidden, pairs=scores, mask=mask)
    for loss in (Hidden(3, 3), Attention()):
        assert float(loss(Step(student, taught, {}, 0.0))) == 0
        moved = Remembered(hidden=[h + 1 for h in hidden], pairs=[s + 1 for s in scores], mask=mask)
        layers = shallow + isinstance(loss, Hidden)
        assert float(loss(Step(student, moved, {}, 0.0))) == pytest.approx(layers)


def test_one_projection_with_a_bias_serves_all_layers() -> None:
    loss = Hidden(4, 6)
    assert isinstance(loss.project, nn.Linear) and loss.project.bias is not None
    assert sum(p.numel() for p in loss.parameters()) == 4 * 6 + 6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 10_000))
def test_alignment_is_monotone_or_nearest(teachers: int, students: int, seed: int) -> None:
    distances = torch.rand(teachers, students, generator=torch.Generator().manual_seed(seed))
    nearest = NearestHidden(2, 2).align(distances)
    assert nearest == [int(i) for i in distances.argmin(1)]
    monotone = NearestHidden(2, 2, alignment="monotone").align(distances)
    assert len(monotone) == teachers and all(a < b or a == b == 0 for a, b in pairwise(monotone))
    assert monotone[-1] == nearest[-1]  # the search starts at the top
    for i in range(teachers - 1):
        assert distances[i, monotone[i]] == distances[i, : max(1, monotone[i + 1])].min()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 5), st.sampled_from(["nearest", "monotone"]))
def test_dead_layers_are_not_pulled(alive: list[bool], teachers: int, alignment: str) -> None:
    loss = NearestHidden(2, 2, alignment=alignment)
    loss.living = lambda: alive
    chosen = loss.align(torch.rand(teachers, len(alive), generator=torch.Generator().manual_seed(teachers)))
    assert (len(chosen) == teachers and all(alive[j] for j in chosen)) or not any(alive)


def test_the_projection_of_the_nearest_layer_starts_as_the_identity_and_follows_a_cut() -> None:
    loss = NearestHidden(5, 5)
    x = torch.randn(2, 5)
    assert torch.equal(loss.project(x), x)
    kept = torch.tensor([0, 3])
    loss.narrow(kept)
    x = torch.zeros(1, 5)
    x[:, kept] = torch.tensor([2.0, 3.0])
    assert torch.equal(loss.project(x[:, kept]), x)


def test_deeper_exits_weigh_more() -> None:
    model = made(layers=4)
    steps, width, labels = features(model)
    exits = tiny.patience(steps, depth(model), width, labels, 2)
    walk(model, exits)
    batch = padded(texts(6))
    with tracing(model.train(False)) as trace, in_full(model), torch.no_grad():
        out = model(**batch)
    loss = EveryExit(exits, mean=True)
    found = loss(Step(trace, None, batch, 0.0))
    own = [F.cross_entropy(tiny.said(exits, i, trace.hidden[i + 1]), batch["labels"]) for i in range(3)]
    assert torch.allclose(found, (1 * own[0] + 2 * own[1] + 3 * own[2] + 4 * out.loss) / 10)
    assert not list(loss.parameters())  # the exits belong to the model


# --- sums ------------------------------------------------------------------------------------------------------------


class Constant(Loss):
    def __init__(self, value: float, reads: Reads = Reads()) -> None:
        super().__init__()
        self.value, self.reads = value, reads

    def forward(self, step: Step) -> Tensor:
        return torch.tensor(self.value)


def test_terms_add_by_their_weights() -> None:
    nothing = Step(Trace(), None, {}, 0.0)
    total = Constant(1.0) + 0.5 * Constant(4.0) + 2 * (0.25 * Constant(8.0))
    assert float(total(nothing)) == 7.0
    assert float(Sum([3.0 * (Constant(1.0) + Constant(2.0)), Constant(1.0)])(nothing)) == 10.0


def test_a_term_that_stands_alone_keeps_its_weight() -> None:
    model, batch = made(), padded(texts(4))
    alone, within = (Lesson(model, loss, None)(**batch)["loss"] for loss in (0.5 * Task(), 0.5 * Task() + 0 * Task()))
    assert torch.equal(alone, within)


def test_a_sum_reads_what_any_of_its_terms_reads() -> None:
    a, b = Reads(logits=True, hidden=4), Reads(hidden=2, student_hidden=True)
    assert (a | b) == Reads(logits=True, hidden=ALL, student_hidden=True)
    assert (a | a) == a and (Reads() | a) == a and not Reads(student_scores=True).teacher
    assert (Constant(1, a) + Constant(1, b)).reads == a | b
    assert (Task() + Logits()).reads.teacher and not Task().reads.teacher


def test_a_loss_is_written_as_a_recipe_spells_it() -> None:
    assert repr(0.5 * Logits(heat=2.0)) == "0.5 * Logits(heat=2.0)"
    assert re.fullmatch(r"Task\(\) \+ Hidden\(width=3, teacher_width=4, below=0\)", repr(Task() + Hidden(3, 4)))


# --- the teacher -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKENESS)
def test_a_remembered_teacher_teaches_the_same(name: str, tmp_path: Any) -> None:
    """Read back from its files, padded by another batch; half precision is all that is lost."""
    student, teacher, loss = made(seed=2), made(seed=1), LIKENESS[name]()
    examples = texts(20)

    def collate(some: Any) -> dict[str, Tensor]:
        return padded(list(some)) | {"index": torch.tensor([e["index"] for e in some])}

    remembering = Teacher(teacher, loss.reads)
    assert remembering.prepare(examples, collate, tmp_path / "teacher", lambda done, all_: None)
    batch = collate([examples[i] for i in (7, 3, 19, 0)])
    with tracing(student, attention=True) as trace:
        trace.out = student(**{k: v for k, v in batch.items() if k != "index"})
    asked = loss(Step(trace, Teacher(teacher, loss.reads)(batch), batch, 0.0))
    recalled = loss(Step(trace, remembering(batch), batch, 0.0))
    assert torch.allclose(asked, recalled, rtol=5e-3)
    calls: list[int] = []
    teacher.register_forward_hook(lambda *args: calls.append(1))
    again = Teacher(teacher, loss.reads)
    again.prepare(examples, collate, tmp_path / "teacher", lambda done, all_: None)
    assert len(calls) == 1  # the probe that tells the shapes
    assert torch.equal(loss(Step(trace, again(batch), batch, 0.0)), recalled)
