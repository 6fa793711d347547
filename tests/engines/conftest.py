"""Artefacts of tiny random models: what they answer is nonsense, that two engines answer alike is not."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/tiny.py

SPECIAL, SOME = ("<pad>", "<s>", "</s>", "<unk>"), ("the", "best", "of", "films", "and", "it", "was", "worst", ",")
WORDS = [*SPECIAL, *(f"w{i}" for i in range(26)), *SOME]


@pytest.fixture
def raw():
    """The tokenizer of these tests as the tokenizers library has it, anew each time."""
    return raw_tokenizer()


def raw_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return raw


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw_tokenizer(), model_max_length=60, **special)


@pytest.fixture(scope="session")
def save(tokenizer):
    """A function of a model and a folder: the folder as an artefact has it before the graph."""
    from gossamer.runtime import revive

    revive.register()

    def write(model, folder):
        folder.mkdir(parents=True, exist_ok=True)
        revive.write(model, folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def rounded():
    """A function of a model: all of its tables and layers of the encoder in eight bits, but for `leave` (by ending)."""
    import torch
    from torch import nn

    from gossamer.runtime.modules import IntEmbedding, IntLinear

    @torch.no_grad()
    def settle(model, leave=("classifier",)):
        for path, module in list(model.named_modules()):
            if type(module) in (nn.Linear, nn.Embedding) and not path.endswith(tuple(leave)):
                scale = module.weight.abs().amax(1, keepdim=True) / 127
                codes = (module.weight / scale).round().to(torch.int8)
                kind = IntLinear if type(module) is nn.Linear else IntEmbedding
                model.set_submodule(path, kind.of(module, codes, scale))
        return model

    return settle


@pytest.fixture(scope="session")
def artefact(tmp_path_factory, save, rounded, tokenizer):
    """A BERT of three layers: whole, two heads of four, low rank; int8 throughout; its model, and what was written."""
    import tiny
    import torch
    from torch import nn

    from gossamer.engines import export
    from gossamer.runtime.modules import LowRank

    torch.manual_seed(0)
    names = {"id2label": {0: "bad", 1: "good", 2: "so-so"}, "label2id": {"bad": 0, "good": 1, "so-so": 2}}
    model = tiny.build("bert", "classes", num_hidden_layers=3, **names)
    second, third = model.bert.encoder.layer[1], model.bert.encoder.layer[2]
    for name in ("query", "key", "value"):
        second.attention.self.set_submodule(name, nn.Linear(32, 16))
    second.attention.output.dense = nn.Linear(16, 32)
    third.intermediate.dense = LowRank(32, 8, 64)
    folder = save(rounded(model), tmp_path_factory.mktemp("artefact"))
    return SimpleNamespace(model=model, folder=folder, written=export.write(model, tokenizer, folder))


@pytest.fixture(scope="session")
def walked():
    """A function of a kind and how many layers: the model."""
    return walking_model


def walking_model(kind, layers=3):
    """A BERT whose texts stop at different layers and lose tokens, or both."""
    import tiny
    import torch

    from gossamer import walking
    from gossamer.runtime import walks

    torch.manual_seed(0)
    model = tiny.build("bert", "classes", num_hidden_layers=layers).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3 * (weight.dim() > 1))
    if "exits" in kind:
        walking.walk(model, tiny.patience(["bert.pooler"], layers, 32, 3, 1))
    if "tokens" in kind:
        walking.walk(model, walks.TokenThreshold(layers, 0.06, length=20))
    return model


@pytest.fixture(scope="session", params=["exits", "tokens", "exits and tokens"])
def dynamic(request, tmp_path_factory, save, tokenizer):
    """An artefact with such a way; its model, and what was written."""
    from gossamer.engines import export

    model = walking_model(request.param)
    folder = save(model, tmp_path_factory.mktemp("dynamic"))
    written = export.write(model, tokenizer, folder)
    return SimpleNamespace(kind=request.param, model=model, folder=folder, written=written)


@pytest.fixture(scope="session")
def texts():
    """Some of no, one and up to fifty words."""
    import numpy as np

    chance = np.random.default_rng(0)
    words = [f"w{i}" for i in range(26)]
    return ["", "w1", *(" ".join(chance.choice(words, n)) for n in chance.integers(1, 50, 40))]
