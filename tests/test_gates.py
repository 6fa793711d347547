"""Gates, and the reader of zeros that slices away what they closed."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.anatomy import blocks, stream, width
from gossamer.forms import settle
from gossamer.gates import (
    HardConcrete,
    PartialNorm,
    compact,
    gate_heads,
    gate_hidden,
    gate_neurons,
    gate_sublayer,
    separable,
    take,
)
from gossamer.runtime.modules import LowRank, NoAttention, Nothing
from tests import tiny
from tests.jobs import logits

POST_NORM = ("bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2")
OTHER_SHAPES = ("deberta-v2, own position projections", "t5, gated")
PRE_NORM = ("gpt2", "llama", "modernbert", "t5")


class Fixed(nn.Module):
    """A gate that has been decided."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self) -> Tensor:
        return self.values


def some(size: int, closed: int, seed: int = 0) -> Fixed:
    """`closed` gates at 0, the others between 1/2 and 1."""
    draw = torch.Generator().manual_seed(seed)
    values = 0.5 + torch.rand(size, generator=draw) / 2
    values[torch.randperm(size, generator=draw)[:closed]] = 0
    return Fixed(values)


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- the gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [-3.0, -1.0, 0.0, 1.0, 3.0])
def test_samples_are_open_as_often_as_the_count_says(a: float) -> None:
    torch.manual_seed(0)
    gate = HardConcrete(20_000, a).train()
    gate.draw()
    z = gate()
    open_, whole = float((z > 0).float().mean()), float((z == 1).float().mean())
    assert open_ == pytest.approx(float(gate.alive()[0].detach()), abs=0.015)
    assert whole == pytest.approx(1 / (1 + math.exp(-(a - 2 / 3 * math.log(1.1 / 0.1)))), abs=0.015)
    assert bool(((z >= 0) & (z <= 1)).all())


def test_the_gradient_of_a_sample_is_the_published_one() -> None:
    torch.manual_seed(0)
    gate = HardConcrete(500, 0.3).train()
    gate.draw()
    gate().sum().backward()
    with torch.no_grad():
        s = torch.sigmoid((gate.log_alpha + gate.noise.log() - (1 - gate.noise).log()) / (2 / 3))
        inside = (s * 1.2 - 0.1 > 0) & (s * 1.2 - 0.1 < 1)
        expected = inside * 1.2 * s * (1 - s) / (2 / 3)
    assert gate.log_alpha.grad is not None
    assert torch.allclose(gate.log_alpha.grad, expected, atol=1e-5) and 0 < int(inside.sum()) < 500


def test_one_sample_serves_a_whole_step_and_the_next_step_draws_another() -> None:
    gate = HardConcrete(50, 0.0).train()
    gate.draw()
    first = gate()
    assert torch.equal(first, gate())
    gate.draw()
    assert not torch.equal(first, gate())


def test_a_decided_gate_closes_as_many_as_expected_and_those_that_matter_least() -> None:
    gate = HardConcrete(40).eval()
    gate.log_alpha.data = torch.linspace(-4, 4, 40)[torch.randperm(40)]
    z = gate()
    assert int((z > 0).sum()) == round(gate.alive().sum().item())
    a = gate.log_alpha.detach()
    assert bool(a[z == 0].max() < a[z > 0].min())
    assert torch.allclose(z[z > 0], torch.sigmoid(a[z > 0] * 0.8 * 1.5))
    assert torch.equal(z, gate())  # nothing random in evaluation


def test_log_alpha_is_held_within_its_bound() -> None:
    gate = HardConcrete(2)
    gate.log_alpha.data = torch.tensor([50.0, -50.0])
    gate.draw()
    assert torch.allclose(gate.log_alpha.data.abs(), torch.full((2,), math.log(100)))


# --- the norm over what is left --------------------------------------------------------------------------------------


def test_a_norm_sees_only_the_dimensions_that_are_left() -> None:
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(6), torch.randn(3, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert torch.allclose(PartialNorm(norm, Fixed(torch.ones(6)))(x), norm(x), atol=1e-6)
    z = torch.tensor([0.5, 0, 1, 1, 0, 1])
    partial, kept = PartialNorm(norm, Fixed(z)), torch.tensor([0, 2, 3, 5])
    expected = torch.zeros(3, 6)
    small = nn.functional.layer_norm(x[:, kept], (4,), norm.weight[kept], norm.bias[kept], norm.eps)
    expected[:, kept] = small.detach() * z[kept]
    assert torch.allclose(partial(x), expected, atol=1e-6)
    partial.settle()
    assert torch.allclose(partial(x), expected, atol=1e-6)


# --- gated, folded, sliced -------------------------------------------------------------------------------------------


def gated(model: nn.Module, hidden: bool = False) -> None:
    """Close some heads, neurons and one sublayer of each kind, each layer otherwise."""
    for i, block in enumerate(blocks(model)):
        if isinstance(block.part("o"), nn.Linear):
            if separable(model, block):
                gate_heads(block, some(block.heads, (2, 1, 3)[i % 3], seed=i))
            gate_sublayer(block.o, Fixed(torch.tensor([0.7])))
        if isinstance(block.part("down"), nn.Linear):
            gate_neurons(block, some(block.down.in_features, (40, 10, 63)[i % 3], seed=i + 7))
            gate_sublayer(block.down, Fixed(torch.tensor([0.8])))
    if hidden:
        gate_hidden(model, some(width(model), 9))


@pytest.mark.parametrize("family", [*POST_NORM, *PRE_NORM, "bart", "albert", "mistral", *OTHER_SHAPES])
def test_the_sliced_model_computes_what_the_gated_one_did(family: str) -> None:
    model = tiny.build(family, "classes")
    batch = tiny.batch(model)
    whole, size = logits(model, batch), weights(model)
    gated(model)
    expected = logits(model, batch)
    settle(model)
    folded = logits(model, batch)
    cut = compact(model)
    assert cut if family != "gpt2" else not cut  # gpt2 keeps its matrices as Conv1D, which no gate touches yet
    assert torch.allclose(folded, expected, atol=1e-5)
    assert torch.allclose(logits(model, batch), expected, atol=1e-4)
    if family != "gpt2":
        assert weights(model) < size and not torch.allclose(expected, whole, atol=1e-3)


@pytest.mark.parametrize("family", POST_NORM[:5])
def test_hidden_dimensions_leave_all_that_reads_and_writes_the_stream(family: str) -> None:
    model = tiny.build(family, "classes")
    batch = tiny.batch(model)
    gated(model, hidden=True)
    expected = logits(model, batch)
    settle(model)
    cut = compact(model)
    assert cut.hidden is not None and len(cut.hidden) == 23 == width(model)
    assert torch.allclose(logits(model, batch), expected, atol=1e-4)
    assert all(type(norm) is nn.LayerNorm and norm.normalized_shape == (23,) for norm in stream(model).norms)
    assert not any(isinstance(m, PartialNorm) for m in model.modules())


def test_whole_sublayers_leave() -> None:
    """All heads of one layer, all neurons of another; what is left adds its bias, before the cut as after it."""
    model = tiny.build("bert", "classes")
    batch = tiny.batch(model)
    first, second = blocks(model)
    gate_heads(first, Fixed(torch.zeros(4)))
    gate_neurons(second, Fixed(torch.zeros(64)))
    bias = second.down.bias.detach().clone()
    expected = logits(model, batch)
    settle(model)
    cut = compact(model)
    assert cut.heads == (4, 0) and cut.neurons == (0, 64)
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)
    assert isinstance(first.part("attend"), NoAttention) and isinstance(second.part("down"), Nothing)
    assert torch.equal(second.down.bias, bias)


def test_all_neurons_of_a_fused_gated_part_leave() -> None:
    model = tiny.build("modernbert", "classes")
    batch = tiny.batch(model)
    gate_neurons(blocks(model)[1], Fixed(torch.zeros(64)))
    expected, size = logits(model, batch), weights(model)
    settle(model)
    assert compact(model).neurons == (0, 64)
    assert torch.allclose(logits(model, batch), expected, atol=1e-5) and size - weights(model) == 3 * 64 * 32


def test_a_closed_sublayer_adds_nothing_at_all() -> None:
    model = tiny.build("bert", "classes")
    batch = tiny.batch(model)
    for block in blocks(model):
        gate_sublayer(block.o, Fixed(torch.zeros(1)))
        gate_sublayer(block.down, Fixed(torch.zeros(1)))
    expected = logits(model, batch)
    settle(model)
    assert compact(model).neurons == (64, 64)
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)
    assert not any(p.abs().sum() for b in blocks(model) for part in ("o", "down") for p in b.part(part).parameters())


def test_where_nothing_is_zero_nothing_is_cut() -> None:
    model = tiny.build("bert", "classes")
    before = copy.deepcopy(model.state_dict())
    cut = compact(model)
    assert not cut and cut.hidden is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_zeros_are_read_whoever_wrote_them() -> None:
    model = tiny.build("bert", "classes")
    block = blocks(model)[0]
    with torch.no_grad():
        block.o.weight[:, 8:16] = 0
        block.down.weight[:, ::2] = 0
    batch = tiny.batch(model)
    expected = logits(model, batch)
    cut = compact(model)
    assert cut.heads == (1, 0) and cut.neurons == (32, 0)
    assert block.q.out_features == 24 and block.heads == 3 and block.up.out_features == 32
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)


@pytest.mark.parametrize("family", PRE_NORM)
def test_hidden_dimensions_stay_where_the_norm_comes_first(family: str) -> None:
    with pytest.raises(ValueError, match="leave them whole with hidden=False"):
        gate_hidden(tiny.build(family, "classes"), some(32, 4))


def test_gates_refuse_what_is_no_longer_plain() -> None:
    model = tiny.build("bert", "classes")
    block = blocks(model)[0]
    block.put("down", LowRank(64, 3, 32))
    with pytest.raises(ValueError, match=r"'down' .* is a LowRank, and gates need a plain Linear; cut shapes before"):
        gate_neurons(block, some(64, 3))


@pytest.mark.parametrize("kind", ["linear", "low rank", "table", "conv1d"])
def test_taking_rows_and_columns(kind: str) -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    makers: dict[str, Any] = {
        "linear": lambda: nn.Linear(5, 4), "low rank": lambda: LowRank(5, 2, 4), "table": lambda: nn.Embedding(5, 4),
        "conv1d": lambda: Conv1D(4, 5),
    }  # fmt: skip
    module = makers[kind]()
    rows, cols, x = torch.tensor([3, 1]), torch.tensor([0, 2, 4]), torch.randn(3, 5)
    if kind == "table":
        expected = module.weight[:, rows].clone()
        take(module, rows=rows)
        assert torch.equal(module(torch.arange(5)), expected) and module.embedding_dim == 2
        return
    x[:, [1, 3]] = 0
    expected = module(x)[:, rows]
    take(module, rows=rows, cols=cols)
    assert torch.allclose(module(x[:, cols]), expected, atol=1e-6)
