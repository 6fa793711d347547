"""Laws 3, 4, 7, 9, 10 and 11, for each method by itself: what it does to a model, and what it leaves alone."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from gossamer import artefact
from gossamer.gates import HardConcrete, compact
from gossamer.job import Job
from gossamer.runtime.attention import NAME, _listeners
from gossamer.runtime.walks import Walk, _answer_early
from gossamer.train import drive
from tests import small

Finished = Callable[..., Job]
# What a kind of method says of itself, as a share of the plain model that is left at most.
CLAIMS = {
    "begin": {"bytes": 0.5, "weights": 0.5, "macs": 0.5},
    "rearrange": {"bytes": 0.7, "weights": 0.7},
    "cut": {"bytes": 0.8, "weights": 0.8, "macs": 0.8},
    "factor": {"bytes": 0.8, "weights": 0.8, "macs": 0.8},
    "table": {"work": 0.7, "macs": 0.7},
    "settle": {"bytes": 0.35},
    "walk": {"work": 0.9, "macs": 0.9},
}


def finite(model: Any) -> bool:
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point()), small.logits(model)]
    return all(bool(t.isfinite().all()) for t in tensors)


@pytest.mark.parametrize("name", small.NAMES)
def test_law_3_a_dry_run_leaves_it_finite(name: str, tmp_path: Path) -> None:
    job = small.job(tmp_path / "job")
    job.plan, job.dry = [], True
    drive(job, small.method(name))
    assert finite(job.model) and not (tmp_path / "job").exists()
    assert all(set(stage) == {"stage", "steps", "reads", "teacher"} for stage in job.plan)
    assert len({stage["stage"] for stage in job.plan}) == len(job.plan)


@pytest.mark.parametrize("name", small.NAMES)
def test_law_3_three_steps_leave_it_finite_and_changed(name: str, finished: Finished) -> None:
    made = finished(name).model
    assert finite(made) and not made.training
    assert not torch.allclose(small.logits(made), small.logits(small.model()), atol=1e-4)
    assert all(not isinstance(m, HardConcrete) for m in made.modules())


@pytest.mark.parametrize("name", small.NAMES)
def test_law_4_what_is_saved_is_loaded(name: str, finished: Finished, saved: Callable[..., Path]) -> None:
    expected, cost = small.logits(finished(name).model), small.costs(finished(name).model)
    for load in (artefact.load, AutoModelForSequenceClassification.from_pretrained):
        read = load(saved(name))
        assert not read.training and read.config.id2label == dict(enumerate(small.LABELS))
        assert torch.allclose(small.logits(read), expected, atol=1e-6, rtol=0)
        assert small.costs(read) == cost


@pytest.mark.parametrize("name", small.NAMES)
def test_law_7_what_it_claims_is_measured(name: str, finished: Finished) -> None:
    cost, plain = small.costs(finished(name).model), small.plain()
    for what, share in CLAIMS[small.method(name).kind].items():
        assert cost[what] < share * plain[what], f"{name}: {what} {cost[what]:,.0f} of {plain[what]:,.0f}"


def done_before(name: str) -> Callable[[Job], None]:
    """It has been done already."""
    return lambda job: drive(job, small.method(name))


def settled(job: Job) -> None:
    drive(job, small.method("Int8"))


def without_sublayers(job: Job) -> None:
    """Every layer hands on zeros, and was cut."""
    for layer in job.model.bert.encoder.layer:
        for last in (layer.attention.output.dense, layer.output.dense):
            last.weight.data.zero_()
            last.bias.data.zero_()
    compact(job.model)


def layers(count: int) -> Callable[[Job], None]:
    """The model and its teacher have so few layers."""

    def cut(job: Job) -> None:
        for model in (job.model, job.teacher):
            del model.bert.encoder.layer[count:]
            model.config.num_hidden_layers = count

    return cut


def a_teacher_as_small(job: Job) -> None:
    small_one = small.model(layers=3).config
    small_one.hidden_size, small_one.intermediate_size = 16, 64
    job.teacher = type(job.teacher)(small_one)


# When each method finds nothing to do, and what it says then.
IDLE: dict[str, tuple[Callable[[Job], None], str]] = {
    "BERxiT": (done_before("BERxiT"), "use it once"),
    "CAT": (done_before("CAT"), "use it once"),
    "CoFi": (without_sublayers, "no sublayer that could be pruned is left"),
    "DeeBERT": (done_before("DeeBERT"), "use it once"),
    "DRONE": (done_before("DRONE"), "finds nothing to do; leave it out"),
    "FastBERT": (done_before("FastBERT"), "use it once"),
    "Int8": (settled, "finds nothing to do; leave it out"),
    "LAT": (done_before("LAT"), "use it once"),
    "LTP": (done_before("LTP"), "use it once"),
    "PoWERBERT": (done_before("PoWERBERT"), "use it once"),
    "TRBERT": (layers(1), "no token could be saved anything; use TRBERT on 2 layers or more"),
    "Transkimmer": (done_before("Transkimmer"), "use it once"),
    "LeeBERT": (layers(2), r"no example could stop before the end; type LeeBERT\("),
    "PABEE": (layers(2), r"no example could stop before the end; type PABEE\("),
    "PCEEBERT": (layers(2), r"no example could stop before the end; type PCEEBERT\("),
    "PastFuture": (layers(1), "no example could stop before the end; use PastFuture on 2 layers or more"),
    "RightTool": (layers(1), r"expected some from 1 to 0; type RightTool\("),
    "RomeBERT": (done_before("RomeBERT"), "use it once"),
    "SkipBERT": (layers(1), r"expected some of both kinds; type SkipBERT\("),
    "Share": (layers(1), r"nothing would be shared; type Share\("),
    "TernaryBERT": (settled, "finds nothing to do; leave it out"),
    "Theseus": (layers(1), r"expected a proper divisor of 1 .*; type Theseus\("),
    "Voting": (done_before("Voting"), "use it once"),
    "TinyBERT": (a_teacher_as_small, r"nothing would be smaller; type TinyBERT\("),
}


@pytest.mark.parametrize("name", small.NAMES)
def test_law_9_doing_nothing_raises(name: str, tmp_path: Path) -> None:
    job = small.job(tmp_path)
    assert name in IDLE, f"say in IDLE when {name} finds nothing to do"
    make, sentence = IDLE[name]
    make(job)
    with pytest.raises(ValueError, match=sentence):
        drive(job, small.method(name))


@pytest.mark.parametrize("name", small.NAMES)
def test_law_10_the_same_seed_gives_the_same_weights(name: str, finished: Finished, tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever chance was before does not matter
    first, second = finished(name).model, small.after(small.job(tmp_path), name).model
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def hooks(model: Any) -> list[Any]:
    kinds = [k for k in vars(model) if "hooks" in k and "state_dict" not in k]
    found = [hook for m in model.modules() for kind in kinds for hook in (getattr(m, kind) or {}).values()]
    return [hook for hook in found if callable(hook)] + [
        p for p in model.parameters() if p._backward_hooks or p._post_accumulate_grad_hooks
    ]


@pytest.mark.parametrize("name", small.NAMES)
def test_law_10_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    job = small.job(tmp_path)
    teacher, pretrained = deepcopy(job.teacher), deepcopy(job.pretrained)
    frozen = {"bert.embeddings.token_type_embeddings.weight", "classifier.bias"}
    for path in frozen:
        job.model.get_parameter(path).requires_grad_(False)
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    made = small.after(job, name).model
    assert before == (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    assert _listeners.get() == ()
    answers = [_answer_early] if any(isinstance(m, Walk) and m.dynamic for m in made.modules()) else []
    assert hooks(made) == answers and hooks(job.teacher) == hooks(job.pretrained) == []
    listens = any(getattr(m, "needs_attention", False) for m in made.modules())
    assert (made.config._attn_implementation == NAME) == listens
    assert all("forward" not in vars(m) for m in made.modules())
    for path, p in made.named_parameters():
        begun = small.method(name).kind == "begin"
        assert p.requires_grad == (begun or path not in frozen) and p.grad is None, path
    for was, now in ((teacher, job.teacher), (pretrained, job.pretrained)):
        assert all(torch.equal(v, now.state_dict()[k]) for k, v in was.state_dict().items())
        assert [p.requires_grad for p in was.parameters()] == [p.requires_grad for p in now.parameters()]
        assert was.config.to_dict() == now.config.to_dict() and not now.training


@pytest.mark.parametrize("name", small.NAMES)
def test_law_11_an_answer_depends_on_nobody_else(name: str, finished: Finished) -> None:
    made, texts = small.precise(finished(name).model), small.examples(12)
    together = small.logits(made, small.batch(texts))
    assert small.alike(small.logits(made, small.batch(texts, longest=20)), together)
    alone = torch.cat([small.logits(made, small.batch([text])) for text in texts])
    assert small.alike(alone, together)
    backwards = small.logits(made, small.batch(texts[::-1]))
    assert small.alike(backwards.flip(0), together)
