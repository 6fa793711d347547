"""Forms: what a weight may be written down as, on any tensor of any module, and what is shipped of it."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.forms import Gated, Rounded, Ternary, attach, formed, round_input, settle
from gossamer.runtime.modules import (
    IntEmbedding,
    IntLinear,
    TernaryEmbedding,
    TernaryLinear,
    straight_through,
    unpack,
)


@st.composite
def matrices(draw: Any, rows: int = 6, cols: int = 24) -> Tensor:
    """Matrices of several shapes and scales, some with a row of zeros."""
    n, m = draw(st.integers(1, rows)), draw(st.integers(1, cols))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    w = torch.randn(n, m, generator=chance) * 10 ** draw(st.integers(-3, 3))
    if draw(st.booleans()):
        w[draw(st.integers(0, n - 1))] = 0
    return w


def gate(values: list[float]) -> nn.Module:
    class Fixed(nn.Module):
        def forward(self) -> Tensor:
            return torch.tensor(values)

    return Fixed()


# --- eight bits ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from([2, 4, 8]))
def test_rounding_is_within_half_a_step_symmetric_idempotent_and_keeps_zero(w: Tensor, bits: int) -> None:
    form = Rounded(bits)
    found, (codes, scale) = form(w), form.codes(w)
    assert bool(((found - w).abs() <= scale / 2 * (1 + 1e-5)).all())
    assert torch.equal(form(-w), -found)
    assert torch.allclose(form(found), found, rtol=1e-5)
    assert bool((found[w == 0] == 0).all())
    assert all(len(row.unique()) <= 2**bits - 1 for row in codes)
    assert torch.equal(codes, codes.round()) and codes.abs().max() <= 2 ** (bits - 1) - 1


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_paired_codes_fit_sixteen_bits_two_by_two_and_no_scale_is_larger_than_that_takes(w: Tensor) -> None:
    plain, (codes, scale) = Rounded(8), Rounded(8, paired=True).codes(w)
    two = torch.nn.functional.pad(codes, (0, w.shape[1] % 2)).unflatten(1, (-1, 2))
    sums = two.clamp_min(0).sum(-1).maximum(-two.clamp_max(0).sum(-1))  # of one sign
    assert sums.max() * 255 < 2**15 and bool((sums.amax(1)[w.any(1)] >= 126).all())
    least = plain.codes(w)[1]
    assert bool(((scale >= least) & (scale <= 2 * least)).all())
    assert bool(((codes * scale - w).abs() <= scale / 2 * (1 + 1e-5)).all())
    signs = torch.tensor([1.0, -1.0]).repeat(w.shape[1])[: w.shape[1]]  # neighbours of two signs never add up
    assert torch.equal(Rounded(8, paired=True).codes(w.abs() * signs)[1], least)


def test_the_gradient_goes_straight_through() -> None:
    w = torch.randn(3, 5, requires_grad=True)
    for form in (Rounded(4), Ternary(), Ternary("exact", rowwise=True)):
        w.grad = None
        (form(w) * torch.arange(15.0).view(3, 5)).sum().backward()
        assert w.grad is not None and torch.equal(w.grad, torch.arange(15.0).view(3, 5))
    soft = torch.randn(4, requires_grad=True)
    assert torch.allclose(straight_through(torch.ones(4), soft), torch.ones(4))


def test_settling_rounded_layers_leaves_the_integers_and_the_same_weights() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(12, 7), "table": nn.Embedding(9, 6)})
    for module in model.values():
        attach(module, Rounded())
    soft = {name: module.weight.detach().clone() for name, module in model.items()}
    assert settle(model) == 2
    linear, table = model["linear"], model["table"]
    assert isinstance(linear, IntLinear) and isinstance(table, IntEmbedding)
    assert torch.equal(linear.codes.t() * linear.scale[:, None], soft["linear"])
    assert torch.equal(table(torch.arange(9)), soft["table"])
    assert not list(formed(model))


# --- two bits --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(matrices(), st.booleans())
def test_ternary_weights_are_three_values_by_the_published_rule(w: Tensor, rowwise: bool) -> None:
    form = Ternary("twn", rowwise)
    found = form(w)
    assert bool(found.isfinite().all())
    for got, of in zip(found, w, strict=True) if rowwise else [(found.flatten(), w.flatten())]:
        cut = 0.7 * of.abs().mean()
        kept = of.abs() > cut
        a = of.abs()[kept].mean() if kept.any() else torch.zeros(())
        assert torch.allclose(got, a * of.sign() * kept, rtol=1e-4, atol=0)
        assert len(got.unique()) <= 3


@settings(max_examples=40, deadline=None)
@given(matrices(), st.booleans())
def test_the_exact_cut_is_the_best_of_all(w: Tensor, rowwise: bool) -> None:
    """No number of kept weights does better, and the cut is half the scale."""
    codes, scale = Ternary("exact", rowwise).codes(w)
    whole = (1, -1)
    rows, signs = (w, codes) if rowwise else (w.view(whole), codes.view(whole))
    for row, code, a in zip(rows, signs, scale, strict=True):
        size = row.double().abs().sort(descending=True).values
        cuts = range(1, len(size) + 1)
        best = min(float((size[:k] - size[:k].mean()).square().sum() + size[k:].square().sum()) for k in cuts)
        error = float((row.double() - a.double() * code.double()).square().sum())
        assert error <= best * (1 + 1e-4) + 1e-12 * float(size[0] ** 2)
        assert bool((row.abs()[code != 0] >= a / 2 * (1 - 1e-4)).all())
        assert bool((row.abs()[code == 0] <= a / 2 * (1 + 1e-4)).all())


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_the_exact_cut_gains_over_the_approximation(heavy_tailed: bool) -> None:
    torch.manual_seed(0)
    w = torch.randn(64, 64)
    if heavy_tailed:
        w = torch.distributions.Laplace(0.0, 1.0).sample((64, 64))
    errors = [(Ternary(rule)(w) - w).square().mean() for rule in ("exact", "twn")]
    assert errors[0] <= errors[1]
    assert not heavy_tailed or errors[0] < 0.98 * errors[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_the_loss_aware_rule_never_gets_worse_and_beats_twn_under_its_own_weights(seed: int, rowwise: bool) -> None:
    chance = torch.Generator().manual_seed(seed)
    w, v = torch.randn(4, 40, generator=chance), torch.rand(4, 40, generator=chance) ** 4

    def cost(form: Ternary) -> float:
        codes, scale = form.codes(w)
        return float((v.sqrt() * (w - codes * scale).square()).sum())

    costs = [cost(Ternary("twn", rowwise))]
    for rounds in range(1, 8):
        form = Ternary("lat", rowwise)
        form.rounds = rounds
        form.look(v)
        costs.append(cost(form))
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(costs))
    assert costs[-1] < costs[0]


def test_without_curvature_the_loss_aware_rule_ends_where_the_cut_is_half_the_scale() -> None:
    torch.manual_seed(0)
    w, form = torch.randn(1, 500), Ternary("lat")
    form.rounds = 200
    form.look(torch.ones_like(w))
    codes, scale = form.codes(w)
    assert bool((w.abs()[codes != 0] >= scale / 2).all()) and bool((w.abs()[codes == 0] <= scale / 2).all())
    assert torch.allclose(scale, w.abs()[codes != 0].mean(), rtol=1e-4)


def test_two_bits_on_disk_say_what_was_trained() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(13, 7), "table": nn.Embedding(9, 6, padding_idx=0)})
    attach(model["linear"], Ternary())
    attach(model["table"], Ternary(rowwise=True))
    soft = {name: module.weight.detach().clone() for name, module in model.items()}
    settle(model)
    linear, table = model["linear"], model["table"]
    assert isinstance(linear, TernaryLinear) and isinstance(table, TernaryEmbedding)
    assert torch.equal(unpack(linear.packed, 13) * linear.scale, soft["linear"])
    assert torch.equal(table(torch.arange(9)), soft["table"])
    assert not table(torch.tensor(0)).any()  # the padding row of zeros stays zero


def test_settling_keeps_the_range_that_training_saw() -> None:
    model = nn.Sequential(nn.Linear(8, 5)).train()
    rounding = round_input(model[0])
    attach(model[0], Ternary())
    for spread in (1.0, 4.0):
        model(torch.linspace(-spread, 3 * spread, 8)[None])
    low, high = rounding.low.clone(), rounding.high.clone()
    assert -4 < low < -1 and 3 < high < 12  # a running mean of what was seen
    x = torch.randn(3, 8)
    before = model.eval()(x)
    settle(model)
    assert isinstance(model[0], TernaryLinear) and torch.equal(model[0].rounding.low, low)
    assert torch.equal(model[0].rounding.high, high)
    assert torch.equal(model(x), before)
    assert not model[0]._forward_pre_hooks  # rounded once, not twice


# --- any tensor of any module ----------------------------------------------------------------------------------------


def test_forms_work_on_the_weights_of_an_lstm() -> None:
    torch.manual_seed(0)
    lstm, x = nn.LSTM(6, 8), torch.randn(5, 2, 6)
    plain = lstm(x)[0]
    attach(lstm, Ternary(), "weight_ih_l0")
    attach(lstm, Rounded(4), "weight_hh_l0")
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.5)
    outputs = [lstm(x)[0]]
    for _ in range(2):  # what is learned reaches the next forward pass
        optimizer.zero_grad()
        outputs[-1].square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lstm.parameters())
        optimizer.step()
        outputs.append(lstm(x)[0])
    assert len({float(out.detach().sum()) for out in (plain, *outputs)}) == 4
    assert settle(lstm) == 1
    assert type(lstm) is nn.LSTM and isinstance(lstm.weight_ih_l0, nn.Parameter)
    assert len(lstm.weight_ih_l0.unique()) == 3
    assert torch.equal(lstm(x)[0], outputs[-1])


def test_forms_work_on_conv1d() -> None:
    model = nn.Sequential(Conv1D(7, 5))
    x = torch.randn(3, 5)
    attach(model[0], Rounded(3))
    rounded = model(x)
    settle(model)
    assert type(model[0]) is Conv1D and torch.equal(model(x), rounded)
    assert all(len(row.unique()) <= 7 for row in model[0].weight)


def test_forms_on_one_weight_compose_in_order() -> None:
    linear = nn.Linear(4, 3, bias=False)
    free = linear.weight.detach().clone()
    attach(linear, Gated(gate([1.0, 0.0, 0.5, 1.0]), dim=1))
    attach(linear, Rounded(8))
    gated = free * torch.tensor([1.0, 0.0, 0.5, 1.0])
    assert torch.equal(linear.weight, Rounded(8)(gated))
    model = nn.Sequential(linear)
    settle(model)
    assert isinstance(model[0], IntLinear)
    codes, scale = Rounded(8).codes(gated)
    assert torch.equal(model[0].codes, codes.t()) and torch.equal(model[0].scale, scale.squeeze(1))


@pytest.mark.parametrize(
    ("dim", "each", "values", "expected"),
    [
        (0, 1, [1.0, 0.0], [[1, 2, 3, 4], [0, 0, 0, 0]]),
        (1, 2, [0.0, 2.0], [[0, 0, 6, 8], [0, 0, 14, 16]]),
        (-1, 1, [1.0, 0, 0, 1.0], [[1, 0, 0, 4], [5, 0, 0, 8]]),
        (None, 1, [3.0], [[3, 6, 9, 12], [15, 18, 21, 24]]),
    ],
)
def test_gates_scale_rows_columns_and_groups(dim: Any, each: int, values: Any, expected: Any) -> None:
    w = torch.arange(1.0, 9).view(2, 4)
    assert torch.equal(Gated(gate(values), dim, each)(w), torch.tensor(expected, dtype=torch.float))


def test_a_weight_of_three_dimensions_is_gated_and_rounded_too() -> None:
    conv = nn.Conv1d(4, 6, 3)
    free = conv.weight.detach().clone()
    attach(conv, Gated(gate([0.0, 1, 1, 1, 1, 2]), dim=0))
    attach(conv, Rounded(8))
    assert torch.allclose(conv.weight[5], 2 * free[5], atol=0.02) and not conv.weight[0].any()
    assert conv(torch.randn(1, 4, 9)).shape == (1, 6, 7)
