"""Dynamic Int8: every Linear, every table, and answers that stay near."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from gossamer.calibrate import Inputs, inputs
from gossamer.forms import Rounded
from gossamer.methods.quantization.int8 import ALPHAS, WORTH, Bounds, Int8, bounds, errors
from gossamer.runtime.modules import IntEmbedding, IntLinear
from tests import jobs, small, tiny

FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "llama", "t5", "bart", "deberta-v2")


def held(model: nn.Module) -> int:
    """Bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("tables", [True, False])
def test_every_linear_becomes_integers(tmp_path: Path, family: str, tables: bool) -> None:
    at = jobs.job(tmp_path, family)
    batch = jobs.inputs(at)
    before, size = jobs.logits(at.model, batch), held(at.model)
    jobs.run(at, Int8(embeddings=tables))
    assert not any(type(m) is nn.Linear for m in at.model.modules())
    assert any(isinstance(m, IntEmbedding) for m in at.model.modules()) == tables
    assert any(type(m) is nn.Embedding for m in at.model.modules()) != tables
    after = jobs.logits(at.model, batch)
    assert 0 < float((after - before).abs().max()) < 0.08 * float(before.abs().max())
    assert size / held(at.model) > (3.0 if tables else 2.0)  # this model is small: biases, norms and scales weigh


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_the_codes_are_the_rounded_weights(tmp_path: Path, family: str) -> None:
    model = tiny.build(family, "classes")
    weights = {path: m.weight.detach().clone() for path, m in model.named_modules() if type(m) is nn.Linear}
    batch = tiny.batch(model)
    before = jobs.logits(model, batch)
    at = jobs.job(tmp_path)
    at.model = model
    jobs.run(at, Int8())
    for path, weight in weights.items():
        module = model.get_submodule(path)
        codes, scale = Rounded(8, paired=True).codes(weight)
        assert isinstance(module, IntLinear) and torch.equal(module.codes, codes.t().to(torch.int8))
        assert torch.equal(module.scale, scale.squeeze(1))
    assert float((jobs.logits(model, batch) - before).abs().max()) < 0.15 * float(before.abs().max())


def test_an_answer_depends_on_neither_batch_mates_nor_padding(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, Int8())
    model, batch = small.precise(at.model), jobs.inputs(at, 8)
    together = jobs.logits(model, batch)
    assert torch.allclose(jobs.logits(model, jobs.wider(batch)), together, atol=1e-5)
    for i in range(8):
        n = int(batch["attention_mask"][i].sum())
        alone = jobs.logits(model, {k: v[i : i + 1, :n] for k, v in batch.items()})
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_tied_tables_and_heads_stay_tied(tmp_path: Path) -> None:
    model = tiny.build("bert", "masked")
    at = jobs.job(tmp_path)
    at.model = model
    jobs.run(at, Int8())
    word, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    assert word.weight is decoder.weight and isinstance(model.bert.embeddings.position_embeddings, IntEmbedding)


def test_nothing_is_trained(tmp_path: Path) -> None:
    assert list(Int8()(jobs.job(tmp_path))) == []


def test_doing_nothing_raises(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    list(Int8()(at))
    with pytest.raises(ValueError, match="every Linear of this model is already settled, so Int8 finds nothing to do"):
        list(Int8()(at))


def uneven(at, by: float = 30.0) -> None:
    """Make one feature of the hidden states much larger than the others, and the weights that read it smaller."""
    for layer in at.model.bert.encoder.layer:
        norm = layer.attention.output.LayerNorm
        norm.weight.data[3] *= by
        norm.bias.data[3] *= by
        layer.intermediate.dense.weight.data[:, 3] /= by


@pytest.mark.parametrize("migration", [0.0, 0.5, None])
def test_static_bounds_are_of_all_tokens(tmp_path: Path, migration: float | None) -> None:
    at = jobs.job(tmp_path)
    batch = jobs.inputs(at, 12)
    before = jobs.logits(at.model, batch)
    jobs.run(at, Int8(static=True, migration=migration))
    linears = [m for m in at.model.modules() if isinstance(m, IntLinear)]
    assert linears and all(m.fixed and m.rounding.low <= 0 < m.rounding.high for m in linears)
    assert migration != 0 or not any(m.smooth for m in linears)
    for m in linears:  # zero is on the grid
        step = (m.rounding.high - m.rounding.low) / 255
        assert abs(float(m.rounding.low / step - (m.rounding.low / step).round())) < 1e-3
    assert float((jobs.logits(at.model, batch) - before).abs().max()) < 0.1 * float(before.abs().max())


def test_features_are_evened_out_where_it_helps(tmp_path: Path) -> None:
    apart = {}
    for migration in (0.0, 0.5, None):
        at = jobs.job(tmp_path / str(migration))
        uneven(at)
        batch = jobs.inputs(at, 12)
        before = jobs.logits(at.model, batch)
        jobs.run(at, Int8(static=True, migration=migration))
        apart[migration] = float((jobs.logits(at.model, batch) - before).square().mean())
        smoothed = {path for path, m in at.model.named_modules() if isinstance(m, IntLinear) and m.smooth}
        if migration != 0:
            assert {f"bert.encoder.layer.{i}.intermediate.dense" for i in range(4)} <= smoothed
        else:
            assert not smoothed
    assert apart[None] < apart[0.0] and apart[0.5] < apart[0.0]


def test_features_are_evened_out_where_that_halves_the_error_and_nowhere_else(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    uneven(at)
    linears = [m for m in at.model.modules() if isinstance(m, nn.Linear)]
    shares = 0
    for group in inputs(at.model, linears, at.batches(32)):
        mine = [linears[place] for place in group.linears]
        x = torch.cat(group.some)

        def error(found: Bounds, x: torch.Tensor = x, mine: list[nn.Linear] = mine) -> float:
            return sum(its.square().sum().item() for wrong in errors(x, mine, [found]) for its in wrong)

        own, never = (bounds(group, mine, alpha) for alpha in (None, 0.0))
        assert never.share is None
        ratio = error(own) / error(never)
        assert ratio <= WORTH if own.share is not None else ratio == 1
        others = [error(bounds(group, mine, alpha)) for alpha in ALPHAS]
        assert error(own) <= 1.2 * min(others), "its own alpha is no worse than any other, but for who is cut where"
        shares += own.share is not None
    assert 0 < shares < len(linears)


def test_rounding_adds_nothing_on_average(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    uneven(at)
    plain, linears = deepcopy(at.model), [m for m in at.model.modules() if isinstance(m, nn.Linear)]
    seen = inputs(at.model, linears, at.batches(Int8().samples))
    names = {name: group for group in seen for name, m in at.model.named_modules()
             if any(m is linears[place] for place in group.linears)}  # fmt: skip
    jobs.run(at, Int8(static=True))
    assert len(names) == len(linears)
    assert 0 < sum(at.model.get_submodule(name).smooth for name in names) < len(names)
    for name, group in names.items():
        x = torch.cat(group.some)
        wrong = (at.model.get_submodule(name)(x) - plain.get_submodule(name)(x)).detach()
        assert float(wrong.std()) > 1e-5, "it was rounded"
        assert float(wrong.mean(0).abs().max()) < 1e-3 * float(wrong.std())


def test_tokens_are_looked_at_wherever_they_stand() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    model, mask = Reads(), torch.ones(32, 64)
    x = torch.arange(64.0).expand(32, 64)[..., None]
    [group] = inputs(model, [model.linear], [{"x": x, "attention_mask": mask}])
    assert len(set(group.some[0].flatten().tolist())) > 20, "in texts of one length, too"


def test_a_few_tokens_far_away_are_cut() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 32)
    x[:2, 0] = torch.tensor([30.0, -30.0])
    linear = nn.Linear(32, 16)
    linear.weight.data[:, 0] = 0.0
    assert float(bounds(Inputs([0], x.amin(0), x.amax(0), [x]), [linear], 0.0).high) < 15.0
    nothing = torch.zeros(20, 32)
    assert bounds(Inputs([0], nothing[0], nothing[0], [nothing]), [linear], None).share is None


def test_linears_with_one_input_share_their_bounds(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, Int8(static=True))
    for layer in at.model.bert.encoder.layer:
        q, k, v = (layer.attention.self.get_submodule(name).rounding for name in ("query", "key", "value"))
        assert q.low == k.low == v.low and q.high == k.high == v.high


def test_gradient_and_whole_numbers_agree_between_fixed_bounds(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    uneven(at)
    jobs.run(at, Int8(static=True))
    for m in (m for m in at.model.modules() if isinstance(m, IntLinear)):
        x = torch.randn(5, m.in_features) * float(m.rounding.high)
        assert torch.allclose(m(x.clone().requires_grad_()), m(x), atol=1e-4 * float(m(x).detach().abs().max()))
