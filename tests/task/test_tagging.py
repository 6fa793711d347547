"""Words and their tokens, whatever the tokenizer makes of spaces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.data import Split
from gossamer.task import TokenClassification, encode
from gossamer.task.reading import Spelled, reads

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TAGS = TokenClassification(("O", "B-x", "I-x"))


def bytewise(add_prefix_space):
    """GPT-2's way: bytes, a space belongs to the word after it; no merges, so a token a byte."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", *alphabet])}
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", model_max_length=64)


def pieces():
    """Two letters at most to a token, spaces thrown away; [CLS] and [SEP] around."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"##{a}" for a in letters)]
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = tokenizers.normalizers.BertNormalizer()
    raw.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    raw.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", model_max_length=64)


READERS = {"bytes": bytewise(False), "bytes with a space in front": bytewise(True), "pieces": pieces()}


def places(reader, text, longest=64):
    [read] = reads(TAGS, READERS[reader], [text], None, longest)
    return read


@pytest.mark.parametrize("reader", READERS)
@settings(deadline=None, max_examples=40)
@given(
    words=st.lists(st.text("abz", min_size=1, max_size=4), min_size=1, max_size=8),
    gap=st.sampled_from([" ", "  ", "\t"]),
)
def test_each_word_has_the_place_of_its_first_token(reader, words, gap):
    text = gap.join(words)
    read = places(reader, text)
    whole = READERS[reader](text, return_offsets_mapping=True)
    assert read.ids == whole["input_ids"]
    at = 0
    for word, place in zip(words, read.note, strict=True):
        begin = text.index(word, at)
        at = begin + len(word)
        covered = [
            i for i, (start, end) in enumerate(whole["offset_mapping"]) if start < begin + len(word) and end > begin
        ]
        assert place == covered[0]


def test_words_that_were_cut_off_have_none():
    read = places("pieces", "ab cd ef gh", longest=7)
    assert read.cut and read.note.tolist() == [1, 3, 5, -1], "[CLS] a ##b c ##d e [SEP]"
    [example] = TAGS.examples(read, (1, 2, 0, 1))
    assert example["labels"] == [-100, 1, -100, 2, -100, 0, -100]
    logits = np.arange(21, dtype=np.float32).reshape(1, 7, 3)
    answer = TAGS.cut([logits], 0, read)
    assert answer[:3].tolist() == [[3, 4, 5], [9, 10, 11], [15, 16, 17]] and np.isneginf(answer[3]).all()
    assert TAGS.told(answer) == {"tags": ["I-x", "I-x", "I-x", None]}
    assert TAGS.right([answer], [(2, 2, 2, 0)]).tolist() == [1, 1, 1, 0], "never right, also where class 0 is wanted"
    assert TAGS.finite([answer]).all()
    assert not TAGS.finite([np.full((1, 3), np.nan)]).any()


def test_a_word_that_a_tokenizer_reads_nothing_of():
    read = places("pieces", "ab \u200b cd")  # a space of no width, which BERT's normalizer drops
    assert read.note.tolist() == [1, -1, 3]


def test_as_many_tags_as_words():
    with pytest.raises(ValueError, match=r"example 2 has 2 words and 1 tags, expected one tag a word"):
        encode(TAGS, READERS["pieces"], Split(("ab", "ab cd"), None, ((0,), (0,))), 16)


def test_a_tokenizer_in_python_is_refused():
    with pytest.raises(ValueError, match=r"the tokenizer does not tell where tokens stand in a text \(no offsets\)"):
        TAGS.read(Spelled([1, 2], [0, 0], False), "a b", None, None)


def test_the_score_is_of_entities_where_there_are_some():
    answer = np.array([[0, 9, 0], [0, 0, 9], [9, 0, 0]], np.float32)  # B-x I-x O
    assert TAGS.chunked
    assert TAGS.score([answer], [(1, 2, 0)]) == 1.0
    assert TAGS.score([answer], [(1, 0, 0)]) == 0.0, "the entity has another end"
    assert TAGS.right([answer], [(1, 0, 0)]).tolist() == [1, 0, 1]
    plain = TokenClassification(("NOUN", "VERB", "X"))
    assert not plain.chunked
    assert plain.score([answer], [(1, 0, 0)]) == pytest.approx(2 / 3)
