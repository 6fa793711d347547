"""Layers and multiply-accumulates of models that stop early or drop tokens: counted, and as arithmetic has them."""

from types import SimpleNamespace

import pytest
import torch

from gossamer.data import Data, Split
from gossamer.measure import Schedule, Subject, layers, macs, measure, size
from gossamer.measure.eager import Eager
from gossamer.measure.speedups import speedups
from gossamer.methods.early_exit.pabee import PABEE
from gossamer.runtime.exits import Exits
from gossamer.runtime.walks import Shared, TokenThreshold
from gossamer.walking import walk

H, INNER, LABELS, DEPTH = 32, 80, 2, 6
HEAD = H * H + H * LABELS  # the pooler and a classifier, on one token
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
TEXTS = [" ".join(LETTERS[:n]) for n in (3, 20, 8, 5)]
LENGTHS = [5, 22, 10, 7]  # with [CLS] and [SEP]
QUICK = Schedule(batch_size=2, singles=4, burst=2, pool=4, rounds=3, warmup=1)


def layer(attended, fed=None):
    """n_a 4H^2 + 2 n_a^2 H in the attention, n_f 2HI after it."""
    return attended * 4 * H**2 + 2 * attended**2 * H + (attended if fed is None else fed) * 2 * H * INNER


@pytest.fixture
def early(bert, tokenizer):
    """A function of patience: a model of six layers whose exits all agree, and its predictor."""

    def build(patience):
        model = bert(num_hidden_layers=DEPTH)
        job = SimpleNamespace(model=model)
        next(PABEE(patience)(job))
        [exits] = [m for m in model.modules() if isinstance(m, Exits)]
        for head in exits.heads.linear:
            head.weight.data.zero_()
            head.bias.data = torch.tensor([0.0, 1.0])
        return model.eval(), Eager(model, tokenizer, 64)

    return build


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_an_early_exit_costs_its_layers_and_every_head_that_was_asked(early, patience):
    model, predictor = early(patience)
    k = patience + 1  # layers that run, each with an exit head behind it; the model's own head is asked at the end
    assert macs.per_example(predictor, TEXTS) == [k * layer(n) + k * HEAD + HEAD for n in LENGTHS]
    found = layers.per_example(model, predictor, TEXTS)
    assert [(ran.layers, ran.token_layers) for ran, _ in found] == [(k, k * n) for n in LENGTHS]
    assert [(whole.layers, whole.token_layers) for _, whole in found] == [(DEPTH, DEPTH * n) for n in LENGTHS]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_dropped_tokens_cost_nothing_after_the_attention_that_dropped_them(bert, tokenizer):
    model = bert(num_hidden_layers=3)
    gone = TokenThreshold(3, final=0.0)
    gone.delta.data = torch.tensor([-1.0, 1e3, -1.0])  # the second layer lets go of all but the first token
    walk(model, gone)
    predictor = Eager(model.eval(), tokenizer, 64)
    assert macs.per_example(predictor, TEXTS) == [layer(n) + layer(n, 1) + layer(1) + HEAD for n in LENGTHS]
    found = layers.average(model, predictor, TEXTS)
    mean = sum(LENGTHS) / 4
    assert found == layers.Layers(3.0, 3.0, 2 * mean + 1, 3 * mean)


def test_a_layer_that_plays_often_counts_often_and_a_cut_one_not_at_all(bert, tokenizer):
    model = bert()
    walk(model, Shared([0, 1, 0, 1, 1]))
    assert layers.average(model, Eager(model, tokenizer, 64), TEXTS, examples=2) == layers.Layers(5, 5, 37.5, 37.5)
    albert = pytest.importorskip("transformers").AutoModelForSequenceClassification.from_config(
        pytest.importorskip("transformers").AutoConfig.for_model(
            "albert", vocab_size=31, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            embedding_size=16,
        )
    ).eval()  # fmt: skip
    assert layers.average(albert, Eager(albert, tokenizer, 64), TEXTS[:1]).executed == 3
    one, ids = bert(num_hidden_layers=1), torch.ones(3, 7, dtype=torch.long)
    assert layers.count(one, lambda: one(input_ids=ids)) == layers.Ran(3, 21)


def test_rows_that_are_gone_do_not_count_in_a_batch(early):
    model, predictor = early(1)
    [exits] = [m for m in model.modules() if isinstance(m, Exits)]
    ran = layers.count(model, lambda: predictor.logits(TEXTS, batch_size=4))
    assert ran == layers.Ran(4 * 2, 4 * 2 * 22)  # all four stop after the second layer, padded to the longest
    texts, first = [f"{letter} b" for letter in LETTERS], exits.heads.linear[0]
    first.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    answers = []
    hook = first.register_forward_hook(lambda module, args, out: answers.append(out))
    predictor.logits(texts, batch_size=26)
    hook.remove()
    apart = (answers[0][:, 1] - answers[0][:, 0]).sort().values
    first.bias.data[0] += (apart[12] + apart[13]) / 2  # now half of the texts are of either class, and none on the edge
    alone = [ran.layers for ran, _ in layers.per_example(model, predictor, texts)]
    assert set(alone) == {2, 3}  # who is alone with its first answer goes one further
    assert layers.count(model, lambda: predictor.logits(texts, batch_size=4)).layers == sum(alone)


def test_what_does_not_run_the_model_is_refused(bert, tokenizer):
    other = Eager(bert(), tokenizer, 64)
    with pytest.raises(ValueError, match=r"none of the model's layers ran; expected a predictor that runs this very"):
        layers.average(bert(), other, TEXTS)
    with pytest.raises(ValueError, match="no anatomy for model_type"):
        layers.average(torch.nn.Linear(2, 2), other, TEXTS)


def test_batches_cost_their_padding(bert, tokenizer):
    predictor = Eager(bert(), tokenizer, 64)
    padded = [22, 22, 10, 10]  # two batches of two, in the order in which the texts came
    assert macs.batched(predictor, TEXTS, batch_size=2) == sum(2 * layer(n) + HEAD for n in padded) / 4
    alone = macs.average(predictor, TEXTS)
    assert macs.batched(predictor, TEXTS, batch_size=1) == alone < macs.batched(predictor, TEXTS, batch_size=2)
    with pytest.raises(ValueError, match="expected a predictor that runs in torch"):
        macs.batched(SimpleNamespace(logits=lambda *a, **k: None), TEXTS)


def test_the_finished_cost_what_they_cost_until_they_leave(early):
    """Nobody leaves a batch of which fewer than an eighth has finished; here all finish at once."""
    _, predictor = early(2)
    assert macs.batched(predictor, TEXTS, batch_size=4) == 3 * layer(22) + 4 * HEAD


def test_embeddings_are_told_from_the_rest(bert):
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel

    with torch.device("meta"):
        assert size.parameters(BertModel(BertConfig())) - size.beyond_embeddings(BertModel(BertConfig())) == 23_837_184
    model = bert()
    front = sum(p.numel() for p in model.bert.embeddings.parameters())
    assert size.beyond_embeddings(model) == size.parameters(model) - front
    sizes = {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = AutoConfig.for_model("electra", **sizes, num_attention_heads=4, embedding_size=16)
    model = AutoModelForSequenceClassification.from_config(config)
    inside = sum(p.numel() for p in model.electra.encoder.parameters())
    assert size.beyond_embeddings(model) == inside + sum(p.numel() for p in model.classifier.parameters())


def test_a_report_has_both_conventions_and_three_speed_ups(bert, tokenizer, early):
    model, predictor = early(2)
    plain = bert(num_hidden_layers=DEPTH)
    data = Data("letters", None, None, Split(tuple(TEXTS), None, (0, 1, 0, 1)), ("LABEL_0", "LABEL_1"))
    whole = Eager(plain, tokenizer, 64)
    report = measure(
        Subject("early", predictor, model, predictor), data=data, baseline=Subject("whole", whole, plain, whole),
        schedule=QUICK, examples=4,
    )  # fmt: skip
    base, one = report["baseline"], report["compressed"]
    assert base["errors"] == one["errors"] == {}
    mean = sum(LENGTHS) / 4
    for side, k, heads in ((base, DEPTH, 1), (one, 3, 4)):
        assert (
            side["macs"] == sum(k * layer(n) + heads * HEAD for n in LENGTHS) / 4 and side["flops"] == 2 * side["macs"]
        )
        assert side["macs_batched"] == sum(k * layer(n) + heads * HEAD for n in (22, 22, 10, 10)) / 4
        assert side["layers"] == {
            "executed": k, "full": DEPTH, "token_layers": k * mean, "token_layers_full": DEPTH * mean
        }  # fmt: skip
    assert base["parameters_without_embeddings"] == size.beyond_embeddings(plain) < base["parameters"]
    found = one["speedups"]
    assert found["measured"] == one["faster"] and found["layers"] == found["token_layers"] == 2
    assert found["macs"] == base["macs"] / one["macs"] < found["layers"]  # heads cost, and layers do not say so
    assert found["macs_batched"] == base["macs_batched"] / one["macs_batched"] and "speedups" not in base


def test_speed_ups_of_what_is_known():
    assert speedups({}, {}) is None and speedups({"macs": 0}, {"macs": 5}) is None
    found = speedups({"macs": 10, "layers": None}, {"macs": 5, "layers": {"executed": 2}, "faster": None})
    assert found == {"measured": None, "macs": 2, "macs_batched": None, "layers": None, "token_layers": None}
