"""Law: an artefact answers alike on every engine that can run it, whatever method made it."""

from types import SimpleNamespace

import numpy as np
import pytest

from gossamer import artefact
from gossamer.engines import ENGINES, export, load
from gossamer.engines.graphs import ALONE, carried
from gossamer.engines.integers import rounds
from tests import small

TEXTS = [" ".join(f"w{(7 * i + j * j) % 90}" for j in range(1 + 3 * i % 25)) for i in range(24)]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": 4 + i for i in range(96)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="module", params=(*small.NAMES, *small.OTHERWISE))
def made(request, tmp_path_factory, tokenizer):
    layers = 2 if small.method(request.param).kind in ("settle", "factor", "cut") else 3  # each takes time to export
    job = small.after(small.job(tmp_path_factory.mktemp("job"), layers=layers), request.param)
    written = []
    folder = artefact.save(
        job.model,
        tmp_path_factory.mktemp("made") / "a",
        tokenizer=tokenizer,
        probe=small.batch(),
        also=lambda part: written.append(export.write(job.model, tokenizer, part)),
        verify=False,
    )
    return SimpleNamespace(name=request.param, folder=folder, written=written[0], rounds=rounds(job.model))


def test_every_method_has_graphs_for_packed_texts(made):
    assert carried(made.folder) and made.written.packed
    assert (made.folder / ALONE).is_file() == (len(made.written.packed) > 1), "stages have a graph for one text alone"
    most = 50_000 if made.name == "TernaryBERT" else 20_000  # two bits are written out as bytes in graphs
    assert made.written.own < most, "the weights are those of model.safetensors"


@pytest.mark.parametrize("engine", [one for one in ENGINES if one != "torch"])
def test_engines_agree(made, engine):
    expected = load(made.folder, "torch").logits(TEXTS)
    predictor = load(made.folder, engine)
    together = predictor.logits(TEXTS)
    alone = np.concatenate([predictor.logits([text]) for text in TEXTS])
    for other in (expected, alone):
        apart = np.sort(np.abs(together - other).max(1))
        if made.rounds:  # of an activation beside two integers either may be taken, and what follows with it
            assert apart[-1] <= 0.1 * np.abs(expected).max()
            apart = apart[: int(0.9 * len(apart))]
        assert apart[-1] <= 2 * made.written.tolerance
