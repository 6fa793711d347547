"""Texts laid end to end: nothing is lost, nothing overlaps, and the answers are those of each text alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.engines import export, load, onnxruntime
from gossamer.engines.packing import TOKENS, WIDTH, batches, bins, worth
from gossamer.engines.texts import Facts
from gossamer.task import Classification, Read

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60)
KNOWN = Facts(Classification(("a", "b")), 512, 7, True)


@given(LENGTHS, st.integers(1, 256))
def test_every_text_is_in_one_bin_and_no_bin_overflows(lengths, width):
    made = bins(lengths, width)
    assert sorted(i for row in made for i in row) == list(range(len(lengths)))
    for row in made:
        assert sum(lengths[i] for i in row) <= width or len(row) == 1
    total = sum(min(length, width) for length in lengths)
    assert len(made) <= 2 * -(-total // width) + 1, "two bins that are half empty would have been one"


@settings(deadline=None)
@given(LENGTHS)
def test_a_packed_batch_holds_each_text_whole(lengths):
    chance = np.random.default_rng(0)
    reads = [Read(chance.integers(10, 99, n).tolist(), [i % 2] * n, False) for i, n in enumerate(lengths)]
    seen = []
    for one in batches(reads, KNOWN):
        batch = one.batch
        assert batch["input_ids"].size <= max(TOKENS, max(lengths))
        for at, (i, (y, x)) in enumerate(zip(one.texts, one.spans, strict=True)):
            end = x + lengths[i]
            assert batch["input_ids"][y, x:end].tolist() == reads[i].ids
            assert batch["token_type_ids"][y, x:end].tolist() == reads[i].types
            assert batch["position_ids"][y, x:end].tolist() == list(range(lengths[i]))
            assert batch["firsts"][at] == y * batch["input_ids"].shape[1] + x
            [number] = set(batch["segments"][y, x:end].tolist())
            assert number > 0 and (batch["segments"][y] == number).sum() == lengths[i], "nobody else has it"
            seen.append(i)
        assert (batch["input_ids"][batch["segments"] == 0] == 7).all()
    assert sorted(seen) == list(range(len(lengths)))


def test_packing_is_for_uneven_texts():
    assert worth([100, 5, 5, 5, 5, 5, 5, 5], 8)
    assert not worth([20] * 32, 32), "nothing is padding"
    assert not worth([50], 1)
    even = np.random.default_rng(0).lognormal(3, 0.5, 1024).astype(int) + 2
    assert not worth(even.tolist(), 32), "sorted by length, so many texts hardly need it"
    assert worth(even[:32].tolist(), 32)


def test_positions_of_roberta_begin_after_its_padding():
    known = Facts(Classification(("a", "b")), 512, 1, False, first_position=2)
    [one] = batches([Read([5, 6], [0, 0], False), Read([7], [0], False)], known)
    assert one.batch["position_ids"].tolist() == [[2, 3, 2]] and "token_type_ids" not in one.batch


@pytest.fixture(scope="module")
def uneven():
    words = [f"w{i}" for i in range(26)]
    chance = np.random.default_rng(1)
    return [" ".join(chance.choice(words, n)) for n in (50, 1, 2, 3, 1, 4, 2, 8, 1, 1, 2, 3, 30, 2, 1, 5)]


def test_packed_answers_are_those_of_each_text_alone(artefact, uneven, monkeypatch):
    assert artefact.written.packed is not None
    predictor = load(artefact.folder, engine="onnxruntime")
    ran = []
    monkeypatch.setattr(
        onnxruntime, "unpacked", (lambda real: lambda *args: ran.append(1) or real(*args))(onnxruntime.unpacked)
    )
    together = predictor.logits(uneven)
    assert ran, "the packed graph answered"
    alone = np.concatenate([predictor.logits([text]) for text in uneven])
    assert np.allclose(together, alone, atol=artefact.written.tolerance)
    pairs = list(reversed(uneven))
    both = predictor.logits(uneven, pairs)
    assert np.allclose(
        both,
        np.concatenate([predictor.logits([a], [b]) for a, b in zip(uneven, pairs, strict=True)]),
        atol=artefact.written.tolerance,
    )


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "albert"])
def test_families_that_can_be_told_their_positions(family, tmp_path, save, tokenizer, uneven):
    import tiny
    import torch

    torch.manual_seed(0)
    layers = {"n_layers": 2} if family == "distilbert" else {"num_hidden_layers": 2}
    model = tiny.build(family, "classes", **layers)
    folder = save(model, tmp_path / family)
    written = export.write(model, tokenizer, folder)
    if written.packed is None:
        assert family == "distilbert", "its forward takes no positions"
        return
    predictor = load(folder, engine="onnxruntime")
    alone = np.concatenate([predictor.logits([text]) for text in uneven])
    assert np.allclose(predictor.logits(uneven), alone, atol=written.tolerance)


def test_a_model_that_cannot_be_told_keeps_its_plain_graph(tmp_path, save, tokenizer, caplog):
    import tiny

    model = tiny.build("mpnet", "classes", num_hidden_layers=1)
    written = export.write(model, tokenizer, save(model, tmp_path / "mpnet"))
    assert written.packed is None and written.file.is_file()
    assert "no graph for packed texts: mpnet cannot be told the positions of tokens" in caplog.text
    assert WIDTH == 128
