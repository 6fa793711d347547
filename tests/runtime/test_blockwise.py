"""Attention in blocks: what it says and its gradient are those of the formula, and no step holds all scores."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gossamer.runtime import blockwise
from gossamer.runtime.attention import NAME, Heard, attention, listening, use, using, weighing
from gossamer.runtime.blockwise import LEVELS, Told, attend
from tests import small

Made = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def made(rows: int, heads: int, asks: int, tokens: int, size: int = 3, mask_of: str = "keys") -> Made:
    """Query, key, value, a mask that hides the last key of the last row, and weights of keys."""
    draw = torch.Generator().manual_seed(rows + 10 * heads + 100 * tokens)
    query, key, value = (
        torch.randn(rows, n, heads, size, generator=draw, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for n in (asks, tokens, tokens)
    )
    shape = {"keys": (rows, 1, 1, tokens), "all": (1, 1, asks, tokens), "heads": (rows, heads, asks, tokens)}[mask_of]
    mask = torch.randn(shape, generator=draw, dtype=torch.float64)
    if tokens > 1:
        mask[-1, ..., -1] = torch.finfo(torch.float64).min
    weights = torch.rand(rows, tokens, generator=draw, dtype=torch.float64).requires_grad_()
    return query, key, value, mask, weights


def spelt_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, weights: Tensor | None) -> Any:
    """The formula, and the mean over heads."""
    scores = query @ key.transpose(-1, -2) * 0.7
    probs = (scores if mask is None else scores + mask).softmax(-1)
    if weights is not None:
        each = torch.where(torch.eye(len(weights[0]), dtype=torch.bool), 1.0, weights[:, None, None, :])
        probs = probs * each / (probs * each).sum(-1, keepdim=True)
    return probs @ value, probs.mean(1)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 4), heads=st.integers(1, 5), tokens=st.integers(1, 6), block=st.sampled_from([1, 20, 10**6]),
    mask_of=st.sampled_from(["", "keys", "all", "heads"]), weighed=st.booleans(), shorter=st.booleans(),
)  # fmt: skip
def test_it_is_the_formula_forth_and_back(
    rows: int, heads: int, tokens: int, block: int, mask_of: str, weighed: bool, shorter: bool
) -> None:
    asks = max(1, tokens - 1) if shorter and not weighed else tokens
    query, key, value, mask, weights = made(rows, heads, asks, tokens, mask_of=mask_of or "keys")
    hides, keys = mask if mask_of else None, weights if weighed else None
    learn = [query, key, value, *([weights] if weighed else [])]
    before, blockwise.BLOCK = blockwise.BLOCK, block
    try:
        found = attend(query, key, value, hides, keys, Told(0.7, 0.0, True))
        draw = [torch.randn_like(one) for one in found]
        back = torch.autograd.grad(sum((d * f).sum() for d, f in zip(draw, found, strict=True)), learn)
    finally:
        blockwise.BLOCK = before
    expected = spelt_out(query, key, value, hides, keys)
    wanted = torch.autograd.grad(sum((d * f).sum() for d, f in zip(draw, expected, strict=True)), learn)
    assert all(torch.allclose(f, e) for f, e in zip([*found, *back], [*expected, *wanted], strict=True))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_what_is_dropped_is_zero_and_the_rest_makes_up_for_it(rate: float) -> None:
    """Seen with values that are the unit matrix; the share is the one that was asked for, anew with each call."""
    query, key, _, mask, _ = made(8, 4, 32, 32, size=32)
    unit = torch.eye(32, dtype=torch.float64).expand(8, 4, 32, 32)
    whole, _ = attend(query, key, unit, mask, None, Told(0.7, 0.0, False))
    found, mean = attend(query, key, unit, mask, None, Told(0.7, rate, True))
    seen = whole > 1e-12
    gone = (found == 0) & seen
    kept = 1 - round(rate * LEVELS) / LEVELS
    assert torch.allclose(found[~gone], whole[~gone] / kept) and torch.allclose(mean, whole.mean(1))
    count = int(seen.sum())
    assert abs(float(gone.sum()) / count - rate) < 5 * (rate * (1 - rate) / count) ** 0.5
    assert not torch.equal(found, attend(query, key, unit, mask, None, Told(0.7, rate, True))[0])
    torch.manual_seed(3)
    once, _ = attend(query, key, unit, mask, None, Told(0.7, rate, True))
    torch.manual_seed(3)
    assert torch.equal(once, attend(query, key, unit, mask, None, Told(0.7, rate, True))[0])
    before = torch.get_rng_state()
    attend(query, key, unit, mask, None, Told(0.7, 0.0, True))
    assert torch.equal(before, torch.get_rng_state()), "who drops nothing draws nothing"


def test_the_gradient_is_of_what_was_left() -> None:
    """By differences, with the same dropped again."""
    query, key, value, mask, weights = made(2, 2, 4, 4)

    def again(*given: Tensor) -> Any:
        torch.manual_seed(1)
        return attend(*given[:3], mask, given[3], Told(0.7, 0.3, True))

    assert torch.autograd.gradcheck(again, (query, key, value, weights))


class Largest(TorchDispatchMode):
    """How many single-precision numbers the largest result of an operation has."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.float32:
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("listens", [False, True])
def test_training_never_holds_all_scores(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in a model with dropout; spelt out it does."""
    monkeypatch.setattr(blockwise, "BLOCK", 4 * 32 * 32)
    model = small.model().train()
    use(model)
    given = {"input_ids": torch.full((16, 32), 7), "attention_mask": torch.ones(16, 32)}
    every = 16 * 4 * 32 * 32  # scores of a layer

    def most(ours: bool) -> int:
        if not ours:
            monkeypatch.setattr("gossamer.runtime.attention.slow", lambda *told: False)
        with Largest() as seen, listening(heard.append if listens else lambda one: None):
            model(**given).logits.sum().backward()
        return seen.numbers

    heard: list[Heard] = []
    assert most(ours=True) < every <= most(ours=False)
    assert not listens or torch.allclose(heard[0].mean, heard[0].probs.mean(1), atol=1e-6)


def test_weighed_keys_are_as_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a whole model, which in use is what it was."""
    model, given = small.model().eval(), small.batch()
    use(model)
    weights = torch.rand(given["attention_mask"].shape)
    with weighing(weights), torch.no_grad():
        found = model(**given).logits
        monkeypatch.setattr("gossamer.runtime.attention.slow", lambda *told: False)
        assert torch.allclose(found, model(**given).logits, atol=1e-5)


def test_masks_of_fewer_dimensions_spread_as_they_do_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK", 1)
    query, key, value, _, _ = made(4, 4, 4, 4)
    for shape in ((4, 4), (4,), (1, 4, 4), (4, 4, 4)):
        mask = torch.randn(shape, dtype=torch.float64)
        found = attend(query, key, value, mask, None, Told(0.7, 0.0, False))[0]
        assert torch.allclose(found, spelt_out(query, key, value, mask, None)[0])


def test_all_may_be_dropped_and_heads_may_be_none() -> None:
    query, key, value, mask, _ = made(2, 2, 4, 4)
    assert not attend(query, key, value, mask, None, Told(0.7, 1.0, False))[0].any()
    some = [one[:, :0] for one in (query, key, value)]
    assert attend(*some, mask, None, Told(0.7, 0.1, True))[0].shape == (2, 0, 4, 3)


@pytest.mark.parametrize(
    "odd", ["mixed precision", "half a precision", "recorded", "not ours", "capped", "causal", "elsewhere"]
)
def test_what_blocks_are_not_made_for_goes_another_way(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*told: Any) -> Any:
        raise AssertionError("in blocks")

    monkeypatch.setattr("gossamer.runtime.attention.attend", never)
    query, key, value = (torch.randn(2, 3, 4, 8, device="meta" if odd == "elsewhere" else None) for _ in "qkv")
    module = torch.nn.Module().train()
    more: dict[str, Any] = {}
    if odd == "half a precision":
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    elif odd == "not ours":
        more["position_bias"] = torch.randn(1, 3, 4, 4)
    elif odd in ("capped", "causal"):
        more = {"capped": {"s_aux": torch.zeros(3)}, "causal": {"is_causal": True}}[odd]
    with torch.autocast("cpu", torch.bfloat16, enabled=odd == "mixed precision"):
        if odd == "recorded":
            given, mask = (query, key, value), torch.zeros(1, 1, 4, 4)
            torch.jit.trace(lambda *qkv: attention(module, *qkv, mask, dropout=0.1)[0], given, check_trace=False)
        else:
            out, _ = attention(module, query, key, value, dropout=0.1, **more)
            assert out.shape == (2, 4, 3, 8)
    if odd == "elsewhere":
        with weighing(torch.rand(2, 4, device="meta")):
            assert attention(module, query, key, value, dropout=0.1)[0].device.type == "meta"


def test_only_what_ran_on_torchs_own_is_taken_over() -> None:
    model = small.model()
    for before in ("eager", "sdpa"):
        model.config._attn_implementation = before
        with using(model, "sdpa"):
            assert model.config._attn_implementation == (NAME if before == "sdpa" else before)
        with pytest.raises(ValueError, match="stop"), using(model):
            assert model.config._attn_implementation == NAME
            raise ValueError("stop")
        assert model.config._attn_implementation == before
