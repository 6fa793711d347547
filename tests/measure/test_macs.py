import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gossamer.measure import macs
from gossamer.measure.eager import Eager

H, INNER, LAYERS, LABELS = 32, 80, 2, 2
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def closed_form(n, layers=LAYERS, hidden=H, inner=INNER):
    """4nH^2 (q, k, v, o) + 2n^2H (scores, context) + 2nHI for each layer."""
    return layers * (4 * n * hidden**2 + 2 * n**2 * hidden + 2 * n * hidden * inner)


HEAD = H * H + H * LABELS  # the pooler reads one token


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("batch", "n"), [(1, 4), (1, 40), (3, 17), (8, 33)])
def test_an_encoder_costs_its_closed_form(bert, attention, batch, n):
    model = bert()
    model.set_attn_implementation(attention)
    ids = torch.randint(5, 20, (batch, n))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = macs.count(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))
        assert found == pytest.approx(batch * (closed_form(n) + HEAD), rel=0.01)


def test_each_text_counts_at_its_own_length(bert, tokenizer):
    texts = [" ".join(LETTERS[:n]) for n in (1, 5, 12)]
    runner = Eager(bert(), tokenizer, 64)
    wanted = [closed_form(n + 2) + HEAD for n in (1, 5, 12)]  # [CLS] and [SEP]
    assert macs.per_example(runner, texts) == pytest.approx(wanted, rel=0.01)
    assert macs.average(runner, texts) == pytest.approx(sum(wanted) / 3, rel=0.01)
    assert macs.per_example(runner, texts, examples=2) == pytest.approx(wanted[:2], rel=0.01)
    assert macs.per_example(runner, texts[:1], texts[1:2]) == pytest.approx([closed_form(1 + 5 + 3) + HEAD], rel=0.01)


class Impatient(nn.Module):
    """Stops after the first layer when the first word is an "a"."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def __iter__(self):
        yield self

    def forward(self, x, *args, **kwargs):
        for layer in self.layers:
            x = layer(x, *args, **kwargs)
            if self.stop:
                break
        return x


def test_a_model_that_stops_early_costs_what_it_ran(bert, tokenizer):
    model = bert()
    walk = Impatient(model.bert.encoder.layer)
    model.bert.encoder.layer = nn.ModuleList([walk])
    model.bert.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: setattr(walk, "stop", bool((kwargs["input_ids"][:, 1] == 5).all())),
        with_kwargs=True,
    )
    found = macs.per_example(Eager(model, tokenizer, 64), ["a b c", "b b c", "a"])
    wanted = [closed_form(5, layers=1), closed_form(5), closed_form(3, layers=1)]
    assert found == pytest.approx([cost + HEAD for cost in wanted], rel=0.01)


def test_narrower_layers_cost_less(bert):
    ids = torch.ones(1, 10, dtype=torch.long)
    model = bert()
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense, layer.output.dense = nn.Linear(H, 8), nn.Linear(8, H)
    assert macs.count(lambda: model(input_ids=ids)) == pytest.approx(closed_form(10) - 2 * 10 * H * 72 + HEAD, rel=0.01)


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "albert", "electra", "gpt2", "llama", "bart", "t5"])
def test_families_cost_at_least_their_linear_layers(kind):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    others = {
        "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
        "llama": {**names, "num_key_value_heads": 2},
        "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
                 "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4},
    }  # fmt: skip
    config = AutoConfig.for_model(kind, vocab_size=50, num_labels=2, pad_token_id=0, **others.get(kind, names))
    if kind in ("bart", "t5"):
        config.eos_token_id, config.decoder_start_token_id = 2, 0
    model = AutoModelForSequenceClassification.from_config(config).eval()
    n = 9
    ids = torch.tensor([[*range(5, 5 + n - 1), 2]])
    with torch.no_grad():
        found = macs.count(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    stored = sum(
        m.weight.numel() for name, m in model.named_modules()
        if type(m).__name__ in ("Linear", "Conv1D") and not name.startswith(("classif", "score", "pre_class"))
    )  # fmt: skip
    assert 0.7 * n * stored < found < (3 if kind == "albert" else 1.5) * n * stored


def test_integer_products_convolutions_and_recurrences_count():
    x = torch.randint(-9, 9, (6, 8), dtype=torch.int8)
    assert macs.count(lambda: torch._int_mm(x, torch.ones(8, 5, dtype=torch.int8))) == 6 * 8 * 5
    assert macs.count(lambda: torch.baddbmm(torch.ones(2, 3, 5), torch.ones(2, 3, 4), torch.ones(2, 4, 5))) == 2 * 60
    assert macs.count(lambda: torch.ones(3, 4) @ torch.ones(4)) == 12
    assert macs.count(lambda: torch.einsum("bik,bjk->bij", torch.ones(2, 3, 5), torch.ones(2, 4, 5))) == 120
    conv, up = nn.Conv1d(4, 6, 3, groups=2), nn.ConvTranspose1d(4, 6, 3)
    assert macs.count(lambda: conv(torch.ones(1, 4, 10))) == 8 * 6 * (2 * 3)
    assert macs.count(lambda: up(torch.ones(1, 4, 10))) == 10 * 4 * 6 * 3
    lstm = nn.LSTM(5, 7)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            assert macs.count(lambda: lstm(torch.ones(3, 2, 5))) == 3 * 2 * 4 * 7 * (5 + 7)


def test_attention_with_fewer_keys_than_queries():
    q, k = torch.ones(2, 8, 5, 4), torch.ones(2, 2, 9, 4)
    assert macs.count(lambda: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)) == 2 * 8 * 5 * 9 * 8


def test_the_fused_encoder_of_torch_is_seen():
    layer = nn.TransformerEncoderLayer(H, 4, INNER, batch_first=True).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode():
        found = macs.count(lambda: layer(torch.ones(2, 12, H)))
    assert found == pytest.approx(2 * closed_form(12, layers=1), rel=0.01)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_a_product_without_a_formula_is_refused():
    sparse = torch.eye(4).to_sparse()
    with pytest.raises(ValueError, match=r"no formula for aten::\w*mm.*FORMULAS"):
        macs.count(lambda: torch.sparse.mm(sparse, torch.ones(4, 4)))


def test_what_does_not_run_in_torch_is_refused():
    class Elsewhere:
        def logits(self, texts, pairs=None, batch_size=32):
            return None

    with pytest.raises(ValueError, match="runs in torch"):
        macs.average(Elsewhere(), ["a"])
    with pytest.raises(ValueError, match="no examples"):
        macs.average(Elsewhere(), [])


@pytest.mark.parametrize("leading", [(4,), (2, 3)])
def test_a_bilinear_layer_is_two_products(leading):
    layer, first, second = torch.nn.Bilinear(8, 6, 5), torch.randn(*leading, 8), torch.randn(*leading, 6)
    rows = first.numel() // 8
    with torch.inference_mode():
        assert macs.count(lambda: layer(first, second)) == rows * 5 * (8 * 6 + 6)
