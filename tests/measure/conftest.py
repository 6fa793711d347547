"""A tiny vocabulary and tiny random models: what they answer is nonsense, what they cost is exact."""

from pathlib import Path

import pytest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64, **special)


@pytest.fixture
def bert():
    """A function of settings: a random two-layer BERT classifier."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    def build(**settings):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **(sizes | settings))
        return BertForSequenceClassification(config).eval()

    return build


@pytest.fixture
def plain_folder(tmp_path, bert, tokenizer) -> Path:
    """A model as transformers saves it."""
    model = bert(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"
