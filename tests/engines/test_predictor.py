import logging
import threading
import weakref

import numpy as np
import pytest

from gossamer.engines import texts
from gossamer.engines.predictor import WINDOW, Predictor, pad
from gossamer.engines.texts import Facts, facts, reader
from gossamer.task import CausalLM, Classification, MaskedLM, Read, Regression, Seq2Seq, TokenClassification


def read(texts, pairs):
    """A token per letter; the second text of a pair is of type 1."""
    pairs = pairs if pairs is not None else [""] * len(texts)
    whole = [([ord(c) for c in a + b], [0] * len(a) + [1] * len(b)) for a, b in zip(texts, pairs, strict=True)]
    return [Read(ids[:8] or [0], types[:8] or [0], len(ids) > 8) for ids, types in whole]


def run(batch):
    """Two logits of each text: the sum of its tokens, and its length; what is padding does not count."""
    mask = batch["attention_mask"]
    return np.stack([(batch["input_ids"] * mask).sum(1), mask.sum(1)], 1).astype(np.float32)


def predictor(seen=None, **known):
    def watched(batch):
        if seen is not None:
            seen.append(batch["input_ids"].shape)
        return run(batch)

    return Predictor(
        "fake",
        Facts(**({"task": Classification(("sum", "length")), "max_length": 8, "pad_id": 0, "typed": True} | known)),
        read,
        watched,
    )


def test_answers_come_in_the_order_of_the_texts():
    texts = ["abc", "a", "abcdefg", "", "ab", "b"] * 5
    seen = []
    found = predictor(seen).logits(texts, batch_size=4)
    alone = np.concatenate([predictor().logits([text]) for text in texts])
    assert np.array_equal(found, alone) and found.dtype == np.float32
    assert [shape[1] for shape in seen] == sorted((shape[1] for shape in seen), reverse=True), "sorted by length"
    assert all(shape[0] <= 4 for shape in seen)


def test_texts_are_sorted_within_windows():
    texts = [*["a"] * WINDOW, "abc", "b"]
    seen = []
    assert len(predictor(seen).logits(texts, batch_size=WINDOW)) == WINDOW + 2
    assert seen == [(WINDOW, 1), (2, 3)]


def test_a_batch_is_padded_on_the_right():
    batch = pad([Read([5, 6, 7], [0, 1, 1], False), Read([8], [0], False)], Facts(Regression(), 8, 9, True))
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert "token_type_ids" not in pad([Read([5], [0], False)], Facts(Regression(), 8, 9, False))


def test_texts_may_be_in_anything_that_holds_them():
    wanted = predictor().logits(["ab", "c"], ["d", ""])

    class Column:  # as pandas has it: an index of its own
        def __init__(self, *texts):
            self.texts = texts

        def __len__(self):
            return len(self.texts)

        def __iter__(self):
            return iter(self.texts)

        def __getitem__(self, key):
            raise KeyError(key)

    for holds in (Column, lambda *texts: np.array(texts), lambda *texts: iter(texts), lambda *texts: texts):
        assert np.array_equal(predictor().logits(holds("ab", "c"), holds("d", "")), wanted)


def test_labels_and_scores():
    (one,) = predictor()(["a"])
    assert one["label"] == "sum" and 0.5 < one["score"] <= 1
    value = Predictor("fake", Facts(Regression(), 8, 0, False), read, lambda batch: run(batch)[:, :1])(["a", "b"])
    assert value == [{"value": 97.0}, {"value": 98.0}]


def test_nothing_gives_nothing():
    assert predictor().logits([]).shape == (0, 2) and predictor()([]) == []


def test_truncation_is_said_once(caplog):
    model = predictor()
    with caplog.at_level(logging.WARNING):
        model.logits(["b"])
        model.logits(["abcdefghijk", "a"])
        model.logits(["abcdefghijk"])
    assert [r.message for r in caplog.records] == [
        "1 of the first 3 texts are longer than 8 tokens and are truncated; later ones are not counted"
    ]


@pytest.mark.parametrize(
    ("texts", "pairs", "size", "message"),
    [
        ("one", None, 8, r"texts is one str, expected a list of str; type \[text\]"),
        (["a"], "b", 8, "pairs is one str"),
        (None, None, 8, r"texts is one NoneType, expected a list of str; type \[text\]"),
        (
            ["a", "b \ud800"],
            None,
            8,
            r"texts\[1\] holds '\\ud800', half of a surrogate pair .*; mend it, or type text\.enc",
        ),
        (["a"], ["\udcff"], 8, r"pairs\[0\] holds '\\udcff', half of a surrogate pair and no character"),
        (["a", None], None, 8, r"texts\[1\] is NoneType, expected str"),
        (["a", "b"], ["a"], 8, "found 2 texts and 1 pairs"),
        (["a"], None, 0, "batch_size is 0, expected 1 or more"),
        ({"text": ["a"]}, None, 8, "texts is one dict, expected a list of str"),
        ({"a", "b"}, None, 8, "texts is one set, expected a list of str"),
        (np.array([["a", "b"]]), None, 8, "texts is one ndarray, expected a list of str"),
        (np.array("a"), None, 8, "texts is one ndarray, expected a list of str"),
    ],
)
def test_what_is_not_a_list_of_texts_is_refused(texts, pairs, size, message):
    with pytest.raises(ValueError, match=message):
        predictor().logits(texts, pairs, batch_size=size)


@pytest.mark.parametrize("task", [TokenClassification(("O", "B-x")), MaskedLM(), CausalLM(), Seq2Seq()])
def test_pairs_of_a_task_that_reads_texts_alone_are_refused(task):
    told = rf"{task.kind} reads texts alone, found pairs; leave --pair away \(in Python pairs=\)"
    with pytest.raises(ValueError, match=told):
        predictor(task=task)(["a b"], ["c"])


def test_several_threads_may_ask():
    model, texts = predictor(), ["abc", "a", "abcdefg"] * 40
    expected, wrong = model.logits(texts), []

    def ask():
        if not np.array_equal(model.logits(texts, batch_size=7), expected):
            wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def folder(tmp_path, raw):
    raw.enable_truncation(4)  # what a tokenizer.json says of truncation and padding is its former user's business
    raw.enable_padding(length=50)
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 64, "pad_token_id": 0}')
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 6}')
    return tmp_path


def test_facts_come_from_the_json_files(folder):
    assert facts(folder) == Facts(Classification(("LABEL_0", "LABEL_1")), 6, 0, False)
    (folder / "config.json").write_text(
        '{"model_type": "gossamer", "base_model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1, '
        '"type_vocab_size": 2, "id2label": {"1": "b", "0": "a", "2": "c"}}'
    )
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    wanted = Facts(Classification(("a", "b", "c")), 64, 1, True, first_position=2)
    assert facts(folder) == wanted, "roberta leaves its first positions unused"
    (folder / "config.json").write_text('{"model_type": "t5", "id2label": {"0": "x"}}')
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left", "eos_token": {"content": "</s>"}}')
    assert facts(folder) == Facts(Regression(), 1_000_000, 2, False, "left"), "where no token fills, the last one does"
    (folder / "config.json").write_text('{"model_type": "bert", ')
    with pytest.raises(ValueError, match=r"config.json is damaged .*; copy the artefact again"):
        facts(folder)


def test_the_tokenizer_reads(folder, monkeypatch):
    ask = reader(folder, facts(folder))
    assert ask(["w0 w1", ""], None) == [Read([1, 4, 5, 2], [0] * 4, False), Read([1, 2], [0, 0], False)]
    assert ask(["w0", "w1"], ["w2", "w3"])[1] == Read([1, 5, 2, 7, 2], [0, 0, 0, 1, 1], False)
    assert ask(["w0 w1 w2 w3 w4"], None) == [Read([1, 4, 5, 6, 7, 2], [0] * 6, True)]
    assert ask(["w0 w1 w2 w3"], None) == [Read([1, 4, 5, 6, 7, 2], [0] * 6, False)], "just fits"
    monkeypatch.setattr(texts, "CHARACTERS", 1000)
    long = ask(["w0 " * 700, "w1"] * 2, None)
    assert [len(one.ids) for one in long] == [6, 3, 6, 3] and long[0].cut and not long[1].cut


@pytest.mark.parametrize("alone", [True, False])
def test_what_the_tokenizer_notes_is_kept_for_one_run_of_texts_at_a_time(folder, monkeypatch, alone):
    alive, most = weakref.WeakSet(), []

    class Noted:
        def __init__(self, one):
            self.ids, self.type_ids, self.overflowing = one.ids, one.type_ids, one.overflowing
            alive.add(self)
            most.append(len(alive))

    class Counted:
        def __init__(self, folder):
            self.whole = plain(folder)

        def __getattr__(self, name):
            return getattr(self.whole, name)

        def encode(self, *text):
            return Noted(self.whole.encode(*text))

        def encode_batch_fast(self, some):
            return [Noted(one) for one in self.whole.encode_batch_fast(some)]

    plain = texts._tokenizer
    given = [f"w{i % 9} w1" for i in range(40)]
    whole = reader(folder, facts(folder))(given, None)
    monkeypatch.setattr(texts, "_tokenizer", Counted)
    monkeypatch.setattr(texts, "CHARACTERS", 20)  # four of them
    assert reader(folder, facts(folder), alone)(given, None) == whole
    assert len(most) == 40 and max(most) <= (2 if alone else 4) and not alive


def test_a_question_that_is_cut_is_told(folder, caplog):
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}')
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    known = facts(folder)
    asks = Predictor("fake", known, reader(folder, known), None)
    plain, long = asks.reads(["w0 w1 w2 w3 w4"], ["w5 " * 40]) + asks.reads(["w0 w1 w2 w3 w4 w6"], ["w5 " * 40])
    assert long.ids == plain.ids and plain.more and (plain.cut, long.cut) == (False, True)
    assert [one.getMessage() for one in caplog.records] == [
        "1 of the first 2 questions are longer than 5 tokens and are truncated; later ones are not counted"
    ]


def test_a_tokenizer_that_finds_no_token_reads_one(folder, raw):
    raw.post_processor = None
    raw.save(str(folder / "tokenizer.json"))
    assert reader(folder, facts(folder))(["", "w0"], None) == [Read([0], [0], False), Read([4], [0], False)]


def test_a_damaged_tokenizer_is_said(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is damaged .*; copy the artefact again"):
        reader(folder, facts(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer.json, which running without transformers needs"):
        reader(folder, facts(folder))
