"""The quicker library is asked for float32 alone, where nobody said otherwise, and only for a while."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from unittest import mock

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gossamer import environment, kernels
from gossamer.plan import seconds_per_step
from gossamer.runtime import attention
from gossamer.train import drive
from tests import small, tiny

CPU = torch.device("cpu")
AMD = "vendor_id : AuthenticAMD\nflags : fma avx2 avx512f avx512_bf16"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """What is known of the processor is looked at anew, and nothing is left behind."""
    kernels._better.cache_clear()
    yield
    kernels._better.cache_clear()
    assert attention.fused
    torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which oneDNN is the quicker one."""
    monkeypatch.setattr(kernels, "_better", lambda: True)


def said() -> str:
    """How oneDNN is to multiply float32."""
    return str(torch.backends.mkldnn.matmul.fp32_precision)


def here(monkeypatch: pytest.MonkeyPatch, info: str) -> None:
    """A processor that says so of itself."""
    told = dict(line.split(" : ") for line in info.splitlines())
    monkeypatch.setattr(environment, "_processor", lambda: told)


@pytest.mark.parametrize(
    ("info", "narrow"),
    [
        (AMD, True),
        (AMD.replace("AMD", "XYZ"), False),
        (AMD.replace(" avx512f", ""), False),
        (AMD + " amx_bf16", False),
        ("Features : asimd", False),
    ],
)
def test_where_mkl_is_narrow(monkeypatch: pytest.MonkeyPatch, info: str, narrow: bool) -> None:
    """On AMD's processors with AVX-512, unless they have AMX."""
    here(monkeypatch, info)
    assert environment.narrow_mkl() is narrow


@pytest.mark.usefixtures("better")
def test_it_is_asked_for_a_while() -> None:
    """Within, and neither before nor after, whatever happens; not on another device."""
    with pytest.raises(ZeroDivisionError), kernels.quick(CPU):
        assert said() == "bf16" and not attention.fused
        with kernels.quick(CPU):  # again, as an engine in training would
            pass
        assert said() == "bf16" and not attention.fused
        _ = 1 / 0
    assert said() == "none" and attention.fused
    with kernels.quick(torch.device("meta")):
        assert said() == "none"


def test_digits_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that multiplies bfloat16 where it may is not asked, whatever is the default where one looks."""
    ours, usual = torch.nn.functional.linear, kernels._exact()
    with torch.device("meta"), torch.autocast("cpu"):
        assert kernels._exact() is usual

    def coarse(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        rough = x.dtype == torch.float32 and said() == "bf16"
        return ours(x.bfloat16().float(), w.bfloat16().float(), b) if rough else ours(x, w, b)

    here(monkeypatch, AMD)
    monkeypatch.setattr(kernels.F, "linear", coarse)
    assert not kernels._exact()
    with kernels.quick(CPU):
        assert said() == "none"


@pytest.mark.usefixtures("better")
def test_what_others_say_stays() -> None:
    """Said before or meanwhile, and whoever's attention was in place of torch's."""
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    with kernels.quick(CPU):
        assert said() == "ieee" and attention.fused
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    with kernels.quick(CPU):
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    assert said() == "ieee"
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    with torch.backends.mkldnn.flags(enabled=False), kernels.quick(CPU):
        assert said() == "none"
    theirs = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention.sdpa_attention_forward
    try:
        with kernels.quick(CPU):
            del ALL_ATTENTION_FUNCTIONS["sdpa"]
        assert "sdpa" in ALL_ATTENTION_FUNCTIONS._local_mapping
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is theirs


@pytest.mark.usefixtures("better")
def test_the_last_thread_out_says_so() -> None:
    """What is said to torch is said to all threads: who is still inside keeps it."""
    both_in, one_out, seen = Barrier(2), Barrier(2), list[str]()

    def first() -> None:
        with kernels.quick(CPU):
            both_in.wait(60)
        one_out.wait(60)

    thread = Thread(target=first)
    thread.start()
    with kernels.quick(CPU):
        both_in.wait(60)
        one_out.wait(60)
        seen.append(said())
    thread.join()
    assert [*seen, said()] == ["bf16", "none"]


@pytest.mark.usefixtures("better")
@pytest.mark.parametrize("mask", ["padded", "none", "left, -inf"])
@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_answers_are_those_of_fused_attention(monkeypatch: pytest.MonkeyPatch, name: str, mask: str) -> None:
    """Of every family that torch's attention serves, whatever it masks; in blocks, and afterwards fused again."""
    model: Any = tiny.build(name)
    given = tiny.batch(model)
    real = given.get("decoder_attention_mask", given["attention_mask"]).bool()
    if mask == "none":
        given = {key: value[:1, :3] for key, value in given.items() if not key.endswith("mask")}
        real = real[:1, :3]
    elif mask == "left, -inf":
        if name not in ("llama", "qwen2", "qwen3"):
            pytest.skip("takes no such mask")
        hidden = torch.ones(7, 7).triu(1).bool() | (torch.arange(7) < torch.tensor([[0], [3]]))[:, None]
        given["attention_mask"] = torch.zeros(2, 1, 7, 7).masked_fill(hidden[:, None], -torch.inf)
        real = torch.arange(7) >= torch.tensor([[0], [3]])
    calls = list[int]()
    ours = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *told: calls.append(1) or ours(*told))
    with torch.no_grad():
        before = model(**given)[0]
        with kernels.quick(CPU):
            within = model(**given)[0]
        assert calls or name in ("deberta-v2", "mpnet", "t5")  # a position is part of their scores
        calls.clear()
        after = model(**given)[0]
    assert torch.allclose(before[real], within[real], atol=1e-4)
    assert torch.equal(before.nan_to_num(), after.nan_to_num())
    assert not calls


@pytest.mark.usefixtures("better")
@pytest.mark.parametrize("told", [{}, {"is_causal": True}, {"is_causal": False}])
@pytest.mark.parametrize(
    "shapes", [((2, 4, 5, 8), (2, 4, 5, 8)), ((2, 4, 1, 8), (2, 4, 5, 8)), ((1, 4, 5, 8), (3, 4, 5, 8)),
               ((2, 4, 3, 8), (2, 4, 5, 8)), ((1, 1, 1500, 8), (1, 1, 1500, 8))]
)  # fmt: skip
@pytest.mark.parametrize("causal", [True, False, None])
def test_calls_are_answered_as_by_torch(shapes: Any, causal: bool | None, told: dict[str, Any]) -> None:
    """With other numbers of texts or tokens on either side, and modules that say nothing of what comes later."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(shapes[0]), *(torch.randn(shapes[1]) for _ in range(2)))
    module = torch.nn.Module().eval()
    if causal is not None:
        module.is_causal = causal
    plain = attention.sdpa_attention_forward(module, query, key, value, None, **told)[0]
    with kernels.quick(CPU):
        assert torch.allclose(attention.attention(module, query, key, value, None, **told)[0], plain, atol=1e-5)


@pytest.mark.usefixtures("better")
@pytest.mark.parametrize(("wide", "autocast", "inside"), [(33, False, False), (32, False, True), (32, True, False)])
def test_who_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: int, autocast: bool, inside: bool) -> None:
    """Learning, and the plan of it, where models are wide enough and single precision is meant."""
    monkeypatch.setattr(kernels, "WIDE", wide)
    seen = list[bool]()

    def look(*told: Any) -> None:
        seen.append(not attention.fused)

    job = small.job(tmp_path / "job")
    job.autocast = autocast
    job.model.register_forward_hook(look)
    drive(job, small.method("PABEE"))
    assert set(seen) == {inside}
    seen.clear()
    with mock.patch("gossamer.plan.deepcopy", lambda model: model):
        seconds_per_step(job)
    assert set(seen) == {inside}


def test_learning_has_the_digits_of_float32() -> None:
    """Whatever this processor is: gradients and answers as in double precision, to what float32 holds."""
    model, given = small.model().eval(), small.batch()

    def learned(dtype: torch.dtype) -> list[torch.Tensor]:
        model.to(dtype).zero_grad()
        out = model(**given)
        out.logits.square().sum().backward()
        return [out.logits.detach().double(), *(p.grad.double() for p in model.parameters() if p.grad is not None)]

    with kernels.quick(CPU):
        found = learned(torch.float32)
    true = learned(torch.float64)
    size = max(float(one.norm()) for one in true)
    assert max(float((one - other).norm()) for one, other in zip(found, true, strict=True)) < 1e-5 * size
