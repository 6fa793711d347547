"""What compressed layers become: what they store, and how far from the full precision they may answer."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import blocks
from gossamer.forms import Rounded, Ternary
from gossamer.runtime import modules
from gossamer.runtime.changes import build, describe
from gossamer.runtime.modules import (
    AttentionRounding,
    InputRounding,
    IntEmbedding,
    IntLinear,
    LowRank,
    NoAttention,
    Nothing,
    ScoreAttention,
    TernaryEmbedding,
    TernaryLinear,
    pack,
    unpack,
)
from tests import tiny
from tests.jobs import logits


def learning(rounding: InputRounding) -> InputRounding:
    """In training, and looking at what comes."""
    rounding.learning = True
    return rounding.train()


def int_linear(n: int = 24, m: int = 10, bias: bool = True, seed: int = 0) -> tuple[IntLinear, nn.Linear]:
    torch.manual_seed(seed)
    linear = nn.Linear(n, m, bias)
    return IntLinear.of(linear, *Rounded(8).codes(linear.weight)), linear


def ternary_linear(n: int = 13, m: int = 7, bits: int = 0) -> tuple[TernaryLinear, Tensor]:
    """With its dense weight."""
    codes = torch.randint(-1, 2, (m, n))
    module = TernaryLinear(n, m, True, bits)
    module.packed, module.scale = pack(codes), torch.tensor([0.3])
    nn.init.normal_(module.bias)
    return module, codes * torch.tensor(0.3)


# --- two bits --------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([-1, 0, 1])] * 9), min_size=1, max_size=5), st.integers(1, 9))
def test_codes_survive_packing(rows: list[tuple[int, ...]], n: int) -> None:
    codes = torch.tensor(rows, dtype=torch.float)[:, :n]
    packed = pack(codes)
    assert packed.dtype == torch.uint8 and packed.shape == (len(rows), -(-n // 4))  # two bits a weight
    assert torch.equal(unpack(packed, n), codes.to(torch.int8))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 64])
def test_a_ternary_layer_is_the_dense_one(n: int) -> None:
    torch.manual_seed(n)
    module, weight = ternary_linear(n)
    x = torch.randn(2, 3, n)
    assert torch.equal(module(x), F.linear(x, weight, module.bias))
    assert module.weight_count() == 7 * n + 7


def test_a_ternary_table_is_the_dense_one() -> None:
    codes, scale = Ternary(rowwise=True).codes(torch.randn(11, 6))
    table = TernaryEmbedding(11, 6)
    table.packed, table.scale = pack(codes), scale
    ids = torch.tensor([[0, 10, 3], [3, 3, 1]])
    assert torch.equal(table(ids), (codes * scale)[ids])


# --- eight bits ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12), st.integers(-3, 3))
def test_integers_answer_within_half_a_step_of_each_factor(seed: int, n: int, m: int, size: int) -> None:
    module, linear = int_linear(n, m, seed=seed)
    x = torch.randn(5, n) * 10.0**size
    step_x, step_w = x.abs().amax(-1, keepdim=True) / 127, module.scale  # (5, 1), (m,)
    bound = (x.abs() @ (step_w / 2).expand(n, m)) + (step_x / 2) * linear.weight.abs().sum(1) + n * step_x * step_w / 4
    error = (module(x) - linear(x)).abs()
    assert bool((error <= bound * (1 + 1e-4) + 1e-6 * x.abs().max()).all())


@pytest.mark.parametrize("biased", [True, False])
def test_integers_are_exact_where_inputs_and_weights_are_integers(biased: bool) -> None:
    linear = nn.Linear(16, 5, biased)
    linear.weight.data = torch.randint(-127, 128, (5, 16)).float()
    linear.weight.data[:, 0] = 127
    x = torch.randint(-127, 128, (7, 16)).float()
    x[:, 0] = 127
    module = IntLinear.of(linear, *Rounded(8).codes(linear.weight))
    assert torch.allclose(module(x), linear(x), rtol=1e-6)


def test_a_token_is_rounded_without_regard_to_its_neighbours() -> None:
    module, _ = int_linear()
    x = torch.randn(4, 6, 24)
    x[1, 2] *= 1000  # an outlier beside
    together = module(x)
    assert all(torch.equal(together[i, j], module(x[i, j][None])[0]) for i in range(4) for j in range(6))
    assert torch.equal(module(x[2:3]), together[2:3])


def test_a_token_of_zeros_gets_the_bias() -> None:
    module, linear = int_linear()
    assert torch.equal(module(torch.zeros(2, 24)), linear.bias.detach().expand(2, 10))


def test_what_lies_below_integers_may_learn() -> None:
    """The same numbers, and the gradient of the rounded weight."""
    module, _ = int_linear()
    x = torch.randn(3, 24)
    learning = x.clone().requires_grad_(True)
    out = module(learning)
    assert torch.allclose(out, module(x), atol=1e-5)
    out.sum().backward()
    assert learning.grad is not None
    assert torch.allclose(learning.grad, (module.codes.float() * module.scale).sum(1).expand(3, 24), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_integers_answer_in_the_type_they_are_asked_in(dtype: torch.dtype) -> None:
    module, _ = int_linear()
    assert module(torch.randn(3, 24).to(dtype)).dtype == dtype


def test_a_table_of_integers_is_within_half_a_step() -> None:
    table = nn.Embedding(9, 16)
    codes, scale = Rounded(8).codes(table.weight)
    module, ids = IntEmbedding.of(table, codes, scale), torch.tensor([[1, 8], [0, 1]])
    assert bool(((module(ids) - table(ids)).abs() <= scale[ids] / 2 * (1 + 1e-5)).all())


# --- activations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activations_take_few_values_between_the_lowest_and_the_highest(bits: int) -> None:
    torch.manual_seed(0)
    rounding, x = learning(InputRounding(bits)), torch.randn(400) * 3 + 5
    y = rounding(x)
    step = (x.max() - x.min()) / (2**bits - 1)
    assert len(y.unique()) <= 2**bits and bool(((y - x).abs() <= step / 2 * (1 + 1e-4)).all())
    assert torch.isclose(y.min(), x.min(), atol=1e-5) and torch.isclose(y.max(), x.max(), atol=1e-4)


def test_a_remembered_range_does_not_depend_on_the_batch() -> None:
    rounding = learning(InputRounding(8))
    rounding(torch.tensor([-1.0, 3.0]))
    assert (float(rounding.low), float(rounding.high)) == (-1.0, 3.0)  # the first range is taken whole
    rounding(torch.tensor([-2.0, 3.0]))
    assert float(rounding.low) == pytest.approx(-1.01)
    rounding.eval()
    x = torch.tensor([0.5, 1.0])
    assert torch.equal(rounding(torch.cat([x, torch.tensor([900.0])]))[:2], rounding(x))
    assert float(rounding(torch.tensor([900.0]))) == pytest.approx(3.0, abs=1e-3)  # clipped
    assert float(rounding.low) == pytest.approx(-1.01)


def test_the_gradient_of_rounded_activations_is_straight() -> None:
    x = torch.randn(20, requires_grad=True)
    (learning(InputRounding(4))(x) * torch.arange(20.0)).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.arange(20.0))


# --- less than a layer -----------------------------------------------------------------------------------------------


def test_two_factors_compute_their_product() -> None:
    module, x = LowRank(6, 2, 5), torch.randn(3, 6)
    product = module.up.weight @ module.down.weight
    assert torch.allclose(module(x), F.linear(x, product, module.up.bias), atol=1e-6)


def test_nothing_answers_with_its_bias_at_the_old_width() -> None:
    silent, speaking = Nothing(5), Nothing(5, biased=True)
    nn.init.normal_(speaking.bias)
    x = torch.randn(2, 3, 9)
    assert torch.equal(silent(x), torch.zeros(2, 3, 5))
    assert torch.equal(speaking(x), speaking.bias.detach().expand(2, 3, 5))
    out, probs = NoAttention(5, True)(torch.randn(2, 3, 5), attention_mask=None)
    assert out.shape == (2, 3, 5) and probs is None
    x = torch.randn(2, 3, 5)
    assert NoAttention()(x)[0] is x


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_attention_with_scores_of_its_own_size_is_the_family_s(family: str) -> None:
    model = tiny.build(family, "classes")
    batch = tiny.batch(model)
    expected = logits(model, batch)
    for block in blocks(model):
        old: Any = block.attend
        new = ScoreAttention(["query", "key", "value"], 32, 4, 8, 8, 8**-0.5, 0.0).eval()
        for name in new.names:
            new.add_module(name, old.get_submodule(name))
        block.put("attend", new)
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        int_linear()[0], int_linear(bias=False)[0], IntEmbedding(9, 4, 0), ternary_linear(bits=8)[0],
        TernaryEmbedding(9, 5, None), LowRank(6, 2, 5, False), Nothing(4, True), NoAttention(), NoAttention(4, True),
        ScoreAttention(["q", "k", "v"], 8, 2, 3, 4, 0.5, 0.1), InputRounding(4), AttentionRounding(8),
        nn.Linear(3, 4, bias=False), nn.Embedding(5, 3, padding_idx=1), nn.LayerNorm(7, eps=1e-3), nn.Identity(),
    ],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_a_module_is_built_again_from_what_is_said_of_it(module: nn.Module) -> None:
    """Every tensor of it finds its place in the new one; the description is plain JSON."""
    import json

    said = describe(module)
    assert said is not None
    again = build(json.loads(json.dumps(said)))
    again.load_state_dict(module.state_dict())
    assert describe(again) == said and type(again) is type(module)


def test_what_is_unknown_is_neither_described_nor_built() -> None:
    assert describe(nn.GELU()) is None
    with pytest.raises(ValueError, match=r"contains a 'Hologram', which this version does not know .* pip install"):
        build({"is": "Hologram"})


def test_copies_are_independent() -> None:
    module, _ = int_linear()
    other = copy.deepcopy(module)
    other.codes.zero_()
    assert module.codes.any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.sampled_from([1, 7, 1024, 1025, 3000]), st.integers(1, 4), st.booleans(), st.integers(0, 99)
)
def test_products_of_whole_numbers_are_exact_either_way(
    rows: int, inside: int, out: int, fast: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    extreme = seed % 3 == 0
    a, b = (torch.randint(-127, 128, size, generator=draw) for size in ((rows, inside), (inside, out)))
    if extreme:
        a, b = torch.full_like(a, 127), torch.full_like(b, 127)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "multiplies_bytes", lambda *given: fast)
        found = modules.whole_product(a.float(), b.to(torch.int8))
    assert found.dtype == torch.float32 and torch.equal(found, (a @ b).float())
