"""The quicker library is asked for float32 alone, where nobody said otherwise, and only for a while."""

from collections.abc import Iterator
from threading import Barrier, Thread
from typing import Any

import pytest
import torch

from gossamer import environment, kernels
from gossamer.runtime import attention
from tests import small, tiny

CPU = torch.device("cpu")
AMD = "vendor_id : AuthenticAMD\nflags : fma avx2 avx512f avx512_bf16"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """What is known of the processor is looked at anew, and nothing is left behind."""
    kernels._better.cache_clear()
    yield
    kernels._better.cache_clear()
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


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


def test_it_is_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within, and neither before nor after, whatever happens; not on another device."""
    here(monkeypatch, AMD)
    monkeypatch.setattr(kernels, "_exact", lambda: True)
    with pytest.raises(ZeroDivisionError), kernels.quick(CPU):
        assert torch.get_float32_matmul_precision() == "medium"
        with kernels.quick(CPU):  # again, as an engine in training would
            pass
        assert torch.get_float32_matmul_precision() == "medium"
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == "highest"
    with kernels.quick(torch.device("meta")):
        assert torch.get_float32_matmul_precision() == "highest"


def test_digits_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that multiplies bfloat16 where it may is not asked."""
    here(monkeypatch, AMD)
    ours = torch.Tensor.__matmul__

    def coarse(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if one.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
            return ours(one.bfloat16().float(), other.bfloat16().float())
        return ours(one, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    assert not kernels._exact()
    with kernels.quick(CPU):
        assert torch.get_float32_matmul_precision() == "highest"


def test_what_the_user_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in either of torch's two ways."""
    here(monkeypatch, AMD)
    monkeypatch.setattr(kernels, "_exact", lambda: True)
    torch.set_float32_matmul_precision("high")
    with kernels.quick(CPU):
        assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    with kernels.quick(CPU):
        assert torch.backends.mkldnn.matmul.fp32_precision == "tf32"


def test_the_last_thread_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to torch is said to all threads: who is still inside keeps it."""
    here(monkeypatch, AMD)
    monkeypatch.setattr(kernels, "_exact", lambda: True)
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
        seen.append(torch.get_float32_matmul_precision())
    thread.join()
    assert [*seen, torch.get_float32_matmul_precision()] == ["medium", "highest"]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_answers_are_those_of_fused_attention(monkeypatch: pytest.MonkeyPatch, name: str, padded: bool) -> None:
    """Of every family that torch's attention serves, whatever it masks; in blocks, and afterwards fused again."""
    here(monkeypatch, AMD)
    monkeypatch.setattr(kernels, "_exact", lambda: True)
    model: Any = tiny.build(name)
    given = tiny.batch(model)
    if not padded:
        given = {key: value[:1, :3] for key, value in given.items()}
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
    real = given.get("decoder_attention_mask", given["attention_mask"]).bool()
    assert torch.allclose(before[real], within[real], atol=1e-4)
    assert torch.equal(before, after)
    assert not calls


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
