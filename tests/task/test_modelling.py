"""Words that are left to guess."""

import logging

import numpy as np
import pytest
import torch
import transformers

from gossamer import pipeline
from gossamer.data import Split
from gossamer.measure.quality import quality
from gossamer.task import CausalLM, MaskedLM, TokenClassification, encode
from gossamer.task.modelling import likelihoods
from gossamer.task.reading import reads
from tests import texts, tiny


def test_likelihoods_are_those_of_torch():
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    words = np.array([0, 6, 3, 3, 1])
    found = likelihoods(logits, words)
    wanted = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(words), reduction="none")
    assert np.allclose(found[:, 0], wanted.numpy(), atol=1e-6)
    assert found[:, 1].tolist() == logits.argmax(1).tolist()


def test_the_same_words_are_hidden_each_time_and_a_seventh_of_them():
    text = " ".join(f"w{10 + i % 80}" for i in range(24))
    reader = texts.tokenizer()
    [one], [again] = (list(reads(MaskedLM(), reader, [text], None, 32)) for _ in range(2))
    assert one.ids == again.ids
    places, words = one.note
    assert len(places) == round(0.15 * 24)
    assert all(one.ids[i] == reader.mask_token_id for i in places)
    whole = reader([text])["input_ids"][0]
    assert [whole[i] for i in places] == words.tolist()
    assert not {0, len(whole) - 1} & set(places.tolist()), "special tokens stay"


def test_masks_that_stand_in_a_text_are_asked_for_and_count_nowhere():
    [read] = reads(MaskedLM(), texts.tokenizer(), ["w10 [MASK] w12"], None, 32)
    assert read.note[0].tolist() == [2] and read.note[1].tolist() == [-1]
    logits = np.zeros((1, 5, 100), np.float32)
    logits[0, 2, 42] = 9
    answer = MaskedLM().join([MaskedLM().cut([logits], 0, read)], read, "", None, lambda ids: f" <{ids[0]}> ")
    assert answer == {"words": ["<42>"]}
    other = np.array([[1.0, 5.0]])
    assert MaskedLM().score([answer, other], None) == pytest.approx(np.e)
    assert MaskedLM().finite([answer, other]).all()


@pytest.mark.parametrize("task", [MaskedLM(), CausalLM()])
def test_a_long_text_is_read_in_windows(task):
    words = [f"w{10 + i % 80}" for i in range(70)]
    reader = texts.tokenizer()
    [read] = reads(task, reader, [" ".join(words)], None, 32)
    whole = [read, *read.more]
    assert len(whole) == 3 and not read.cut, "30 words a window between [CLS] and [SEP]"
    parts = [task.cut([np.zeros((1, len(one.ids), 100), np.float32)], 0, one) for one in whole]
    answer = task.join(parts, read, "", None, None)
    assert len(answer) == sum(len(part) for part in parts)
    assert task.score([answer], None) == pytest.approx(100), "all words are as likely"
    examples = encode(task, reader, Split((" ".join(words),)), 32)
    assert [len(e["input_ids"]) for e in examples] == [32, 32, 12] and [e["index"] for e in examples] == [0, 1, 2]


@pytest.mark.parametrize("task, empty", [(MaskedLM(), ["", " "]), (TokenClassification(("O", "B-x")), [""])])
def test_texts_with_nothing_to_learn_from_are_left_out(task, empty, caplog):
    caplog.set_level(logging.WARNING)
    labels = None if isinstance(task, MaskedLM) else (*((),) * len(empty), (1,))
    examples = encode(task, texts.tokenizer(), Split((*empty, "w10"), None, labels), 16)
    assert len(examples) == 1
    assert f"{len(empty)} of {len(empty) + 1} texts have nothing to learn from and are left out" in caplog.text


def test_perplexities_over_other_tokens_are_not_compared():
    with pytest.raises(
        ValueError, match=r"asked for 2 words and the other for 3; perplexities and answers can be compared"
    ):
        CausalLM().same([np.zeros((2, 2))], [np.zeros((3, 2))])


def test_the_interval_of_perplexity_holds_it():
    answers = [np.stack([np.abs(np.random.default_rng(i).normal(2, 1, 9)), np.zeros(9)], 1) for i in range(60)]
    found = quality(CausalLM(), answers, None)
    assert found.low < found.value < found.high and found.better == "lower"
    one = np.concatenate(answers)[:, 0].mean()
    assert found.value == pytest.approx(np.exp(one))


def test_an_encoder_is_no_causal_model():
    assert not pipeline.looks_back(transformers.BertLMHeadModel(tiny.config("bert")))  # says it is no decoder
    for family in ("bert", "gpt2", "llama"):
        assert pipeline.looks_back(tiny.build(family, "causal"))
