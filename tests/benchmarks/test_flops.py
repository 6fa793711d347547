"""What really runs, counted as ELUE's closed form counts it."""

import pytest
import torch
import transformers

from gossamer.benchmarks import elue, flops
from gossamer.measure import macs
from tests import tiny


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_small_encoder_costs_what_the_form_says(attention, mode):
    model = tiny.build("bert", "classes", attn=attention)
    encoder = elue.Encoder(layers=2, width=32, inner=64, heads=4, size=8, classes=3)
    for tokens in (1, 5, 40):
        ids = torch.full((1, tokens), 7)
        with mode():
            assert flops.count(lambda ids=ids: model(input_ids=ids)) == elue.costs(encoder, tokens)[-1]


def test_bert_base_costs_what_the_form_says():
    config = transformers.BertConfig(num_labels=2)
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(config)
    model = model.to_empty(device="cpu").eval()  # what the weights are does not matter
    ids = torch.full((1, 128), 7)
    with torch.inference_mode():
        model.bert.embeddings.position_ids = torch.arange(512)[None]
        model.bert.embeddings.token_type_ids = torch.zeros(1, 512, dtype=torch.long)
        found = flops.count(lambda: model(input_ids=ids))
        products = 2 * macs.count(lambda: model(input_ids=ids))
    assert found == elue.costs(elue.Encoder(), 128)[-1] == 22_367_702_016
    assert found - products == 4 * 128 * 768 + 12 * 2 * (2 * 12 * 128**2 + 4 * 128 * 768), "softmax, scaling, norms"


def test_what_runs_nowhere_is_refused():
    class Silent:
        def logits(self, texts, pairs=None, batch_size=32):
            return None

    with pytest.raises(ValueError, match="no FLOPs in 2 examples; expected a predictor that runs in torch"):
        flops.average(Silent(), ["a", "b"])
