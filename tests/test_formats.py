"""Files that one field uses, and what a column of labels means to each kind of task."""

import json

import pytest

from gossamer.data import lines, read
from gossamer.formats import COLUMNS, PASSAGE, columns_of
from gossamer.task import TASKS, of

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


def squad(context="The cat sat on the mat.", answer="cat", start=4, **more):
    qas = [{"id": "1", "question": "Who sat?", "answers": [{"text": answer, "answer_start": start}]} | more]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}


def test_conll_columns(tmp_path):
    for name, content in (("train.conll", CONLL.replace("\n", "\r\n")), ("dev.iob", CONLL), ("test.txt", CONLL)):
        (tmp_path / name).write_bytes(content.encode())
    data = read(tmp_path, task="token-classification")
    assert data.labels == ("O", "B-MISC", "B-ORG", "B-PER", "I-PER")
    assert data.train == data.dev == data.test
    assert data.train.texts == ("EU rejects German", "Peter Blackburn")
    assert data.test.labels == ((2, 0, 1), (3, 4))
    assert of(data).labels == data.labels
    assert "5 tags" in data.describe()


@pytest.mark.parametrize(
    "content, said",
    [("EU\n", r"test.conll, line 1: one column \('EU'\), expected a word and its tag"),
     ("\n\n", r"test.conll is empty; expected a word and its tag on each line")],
)  # fmt: skip
def test_conll_that_is_none(tmp_path, content, said):
    (tmp_path / "test.conll").write_text(content)
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "test.conll", task="token-classification", need=("test",))


def test_tags_in_lists_strings_and_numbers(tmp_path):
    rows = [
        {"tokens": ["a", "b"], "tags": ["O", "B-x"]},
        {"tokens": "a b", "tags": "I-x O"},
        {"tokens": ["c"], "tags": ["O"]},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path / "test.jsonl", task="token-classification", need=("test",))
    assert data.labels == ("O", "B-x", "I-x") and data.test.labels == ((0, 1), (2, 0), (0,))
    (tmp_path / "test.jsonl").write_text(json.dumps({"words": ["a", "b"], "ner": [3, 10]}))
    data = read(tmp_path / "test.jsonl", task="token-classification", text="words", label="ner", need=("test",))
    assert data.labels == ("3", "10"), "numbers in numeric order"


@pytest.mark.parametrize(
    "row, said",
    [({"tokens": ["a b"], "tags": ["O"]}, r"'tokens' has the word 'a b', expected words without spaces"),
     ({"tokens": ["a"], "tags": [["O"]]}, r"'tags' is a list \(\[\['O'\]\]\), expected a list of tags"),
     ({"tokens": ["a"], "tags": None}, r"test.jsonl: every 'tags' is empty, expected something on each line"),
     ({"tokens": "a b", "tags": "['O', 'O']"}, r"'tags' is a string .* expected a list of tags, one for each word, or"),
     ({"tokens": ["a"], "label": ["O"]}, r"has no column 'tags'; it has: 'tokens', 'label'")],
)  # fmt: skip
def test_tags_that_are_none(tmp_path, row, said):
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "test.jsonl", task="token-classification", need=("test",))


def test_a_tag_that_is_unseen_in_training(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"tokens": [f"a{i}"], "tags": ["O"]}) for i in range(9)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"tokens": ["a"], "tags": ["B-x"]}))
    with pytest.raises(
        ValueError, match=r"test.jsonl, line 1: the tag 'B-x' is unseen in training, where there are 'O'"
    ):
        read(tmp_path, task="token-classification")


def test_squad_and_its_like(tmp_path):
    rows = [
        {"question": "q", "context": "one two", "answers": {"text": ["two"], "answer_start": [4]}},
        {"question": "q", "context": "one two", "answers": [{"text": "one", "answer_start": 0}]},
        {"question": "q", "context": "one two", "answers": {"text": [], "answer_start": []}},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path / "test.jsonl", task="question-answering", need=("test",))
    assert data.test.labels == ((("two", 4),), (("one", 0),), ())
    assert of(data).nothing
    (tmp_path / "test.json").write_text(json.dumps(squad()))
    data = read(tmp_path / "test.json", task="question-answering", need=("test",))
    assert (data.test.texts, data.test.pairs) == (("Who sat?",), ("The cat sat on the mat.",))
    assert data.test.labels == ((("cat", 4),),) and not of(data).nothing


@pytest.mark.parametrize(
    "answers, said",
    [({"text": ["two"], "answer_start": [3]}, r"the context has ' tw' at character 3, expected the answer 'two'"),
     ({"text": ["two"]}, r"'answers' is an object .* expected \{\"text\""),
     ("two", r"'answers' is a string \(two\), expected \{\"text\"")],
)  # fmt: skip
def test_answers_that_are_none(tmp_path, answers, said):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "q", "context": "one two", "answers": answers}))
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "test.jsonl", task="question-answering", need=("test",))


def test_running_text_is_read_in_passages(tmp_path):
    lines_ = [f"line {i} " + "x" * 300 for i in range(20)]
    (tmp_path / "test.txt").write_text("\n\n".join([*lines_, "y" * 3 * PASSAGE]))
    data = read(tmp_path / "test.txt", task="causal-lm", need=("test",))
    assert data.test.labels is None and data.labels is None
    assert "\n".join(data.test.texts).split("\n") == [*lines_, "y" * 3 * PASSAGE], "nothing is lost, in order"
    assert all(len(text) <= PASSAGE for text in data.test.texts[:-1])
    assert len(data.test.texts) < 8
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"test.txt is empty; expected running text"):
        read(tmp_path / "test.txt", task="masked-lm", need=("test",))


def test_targets_and_likeness(tmp_path):
    (tmp_path / "test.csv").write_text("text,target\na,b\nc,d\n")
    data = read(tmp_path / "test.csv", task="seq2seq", need=("test",))
    assert data.test.labels == ("b", "d")
    (tmp_path / "test.csv").write_text("text,text_pair,label\na,b,5\nc,d,0\n")
    data = read(tmp_path / "test.csv", task="sentence-embedding", need=("test",))
    assert data.test.labels == (5.0, 0.0) and data.labels is None, "whole numbers are numbers here"
    assert of(data).top == 5.0
    (tmp_path / "test.csv").write_text("text,text_pair,label\na,b,alike\nc,d,0\n")
    with pytest.raises(ValueError, match=r"line 2: 'label' is 'alike', expected a number"):
        read(tmp_path / "test.csv", task="sentence-embedding", need=("test",))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "a", "target": 5}))
    with pytest.raises(ValueError, match=r"'target' is a number \(5\), expected a text"):
        read(tmp_path / "test.jsonl", task="seq2seq", need=("test",))


def test_columns_of_a_task_hold_unless_others_are_named():
    assert columns_of(None, "", "", "") == (None, "text", "text_pair", "label")
    assert columns_of("text-regression", "", "", "") == (None, "text", "text_pair", "label")
    kind = "question-answering"
    assert columns_of(kind, "", "", "") == (kind, "question", "context", "answers")
    assert columns_of(kind, "q", "c", "text") == (kind, "q", "c", "text")
    assert columns_of("causal-lm", "", "", "x")[3] is None, "there is nothing to be read"
    assert set(COLUMNS) == {task.kind for task in TASKS}
    with pytest.raises(ValueError, match=r"no task 'poetry'; expected one of: text-classification, "):
        columns_of("poetry", "", "", "")


def test_a_class_may_look_like_a_number_and_a_number_like_a_class(tmp_path):
    (tmp_path / "test.csv").write_text("text,label\na,0.5\nb,1.5\nc,0.5\n")
    data = read(tmp_path / "test.csv", task="text-classification", need=("test",))
    assert (data.labels, data.test.labels) == (("0.5", "1.5"), (0, 1, 0))
    (tmp_path / "test.csv").write_text("text,label\na,1\nb,2\n")
    data = read(tmp_path / "test.csv", task="text-regression", need=("test",))
    assert (data.labels, data.test.labels) == (None, (1.0, 2.0))


def test_a_test_without_labels_is_the_dev(tmp_path, caplog):
    for part, tags in (("train", ["O"]), ("dev", ["O"]), ("test", None)):
        rows = [json.dumps({"tokens": [f"{part}{i}"], "tags": tags}) for i in range(3)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
    data = read(tmp_path, task="token-classification")
    assert data.test.texts == ("dev0", "dev1", "dev2") and "its dev is the test" in caplog.text


def test_comments_of_conll_are_no_words(tmp_path):
    (tmp_path / "test.conll").write_text("# id 1\tdomain=en\na X B-x\n\n# text = b\nb X O\n\n# NN O\n")
    data = read(tmp_path / "test.conll", task="token-classification", need=("test",))
    assert data.test.texts == ("a", "b", "#"), "but a word may be #"


def test_an_unnamed_column_is_no_pair(tmp_path):
    (tmp_path / "test.csv").write_text(",text,target\n0,a,b\n1,c,d\n")
    assert read(tmp_path / "test.csv", task="seq2seq", need=("test",)).test.pairs is None


def test_questions_on_one_context_stay_together(tmp_path):
    answers = {"text": ["one"], "answer_start": [0]}
    rows = [{"question": f"q{i}", "context": f"one {i // 5}", "answers": answers} for i in range(100)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path / "some.jsonl", task="question-answering")
    contexts = [set(split.pairs) for split in data.splits.values()]
    assert sum(map(len, contexts)) == 20 and len(set.union(*contexts)) == 20


def test_the_kind_is_part_of_the_fingerprint(tmp_path):
    (tmp_path / "test.csv").write_text("text\na\nb\n")
    prints = {read(tmp_path / "test.csv", task=kind, need=("test",)).fingerprint for kind in ("masked-lm", "causal-lm")}
    assert len(prints) == 2


def test_lines_may_be_lists_of_words(tmp_path):
    file = tmp_path / "some.jsonl"
    file.write_text('{"tokens": ["a", "b"]}\n{"tokens": "c d"}\n')
    assert [text for text, _ in lines(file, text="tokens", words=True)] == ["a b", "c d"]
    with pytest.raises(ValueError, match=r"'tokens' is a list"):
        list(lines(file, text="tokens"))
