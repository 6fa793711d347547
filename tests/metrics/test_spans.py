import json
from dataclasses import asdict, fields
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.metrics.spans import Found, entities, span_scores

TAGS = [
    "O",
    "B-PER",
    "I-PER",
    "E-PER",
    "S-PER",
    "B-LOC",
    "I-LOC",
    "E-LOC",
    "S-LOC",
    "B",
    "I",
    "B-a-b",
    "I-a-b",
    "E",
    "S-",
]
sentences = st.lists(st.lists(st.tuples(*[st.sampled_from(TAGS)] * 2), max_size=8), min_size=1, max_size=4).filter(any)


def overall(found):
    """The figures of all spans together."""
    return Found(*(getattr(found, field.name) for field in fields(Found)))


def columns(rows):
    """Predictions and labels of sentences of pairs."""
    return ([[pair[side] for pair in row] for row in rows] for side in (0, 1))


def written(found, length, scheme):
    """The tags of non-overlapping spans in a scheme that tells all of them apart."""
    tags = ["O"] * length
    for kind, first, end in found:
        inner = {"IOB2": ("B", "I", "I", "B"), "BIOES": ("B", "I", "E", "S"), "BILOU": ("B", "I", "L", "U"),
                 "BMES": ("B", "M", "E", "S")}[scheme]  # fmt: skip
        marks = [inner[3]] if end - first == 1 else [inner[0], *[inner[1]] * (end - first - 2), inner[2]]
        tags[first:end] = [f"{mark}-{kind}" for mark in marks]
    return tags


laid = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "LOC"])), max_size=5)


def test_a_sentence_worked_by_hand():
    labels = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-LOC"], ["O", "B-ORG"]]
    said = [["B-PER", "I-PER", "O", "B-ORG", "O", "B-LOC"], ["B-ORG", "I-ORG"]]
    found = span_scores(said, labels)
    assert overall(found) == Found(2 / 4, 2 / 4, 0.5, 2, 4, 4)
    assert found.types == {
        "LOC": Found(1, 1 / 2, 2 / 3, 1, 1, 2),
        "ORG": Found(0, 0, 0, 0, 2, 1),
        "PER": Found(1, 1, 1, 1, 1, 1),
    }
    assert (found.accuracy, found.tokens, found.sentences) == (5 / 8, 8, 2)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["types"]["LOC"]["labelled"] == 2


def test_chunks_of_ramshaw_and_marcus_begin_with_an_i():
    # IOB1: B only between two chunks of a kind that touch
    assert entities(["I-NP", "I-NP", "O", "I-NP", "B-NP", "I-NP", "I-VP"]) == [
        ("NP", 0, 2), ("NP", 3, 4), ("NP", 4, 6), ("VP", 6, 7)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-A", "I-A", "E-A", "S-A"], [("A", 0, 3), ("A", 3, 4)]),
        (["B-A", "E-A", "E-A"], [("A", 0, 2), ("A", 2, 3)]),  # an end after an end begins anew
        (["S-A", "I-A"], [("A", 0, 1), ("A", 1, 2)]),
        (["E-A", "I-A", "I-A"], [("A", 0, 1), ("A", 1, 3)]),
        (["B-A", "I-B"], [("A", 0, 1), ("B", 1, 2)]),
        (["B-A", "O", "I-A"], [("A", 0, 1), ("A", 2, 3)]),
        (["B", "I", "O", "I"], [("_", 0, 2), ("_", 3, 4)]),
        (["B-A", "M-A", "E-A", "U-A", "B-A", "L-A"], [("A", 0, 3), ("A", 3, 4), ("A", 4, 6)]),
        (["B-人名", "I-人名", "B-a-b", "I-a-b"], [("人名", 0, 2), ("a-b", 2, 4)]),
    ],
)
def test_every_scheme_is_read_leniently(tags, found):
    assert entities(tags) == found


@given(laid, st.sampled_from(["IOB2", "BIOES", "BILOU", "BMES"]))
def test_what_is_written_in_a_scheme_is_read_back(gaps, scheme):
    found, place = [], 0
    for gap, length, kind in gaps:
        found.append((kind, place + gap, place + gap + length))
        place += gap + length
    tags = written(found, place + 1, scheme)
    assert entities(tags) == found
    if found:
        assert span_scores([tags], [written(found, place + 1, "IOB2")]).f1 == 1


@settings(deadline=None)
@pytest.mark.filterwarnings("ignore")  # seqeval warns where a share is not defined; we document its value
@given(sentences)
def test_they_are_seqevals(rows):
    metrics = pytest.importorskip("seqeval.metrics")
    said, labels = columns(rows)
    found = span_scores(said, labels)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, said), abs=1e-6)
    for name, other in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        assert getattr(found, name) == pytest.approx(other(labels, said, average="micro"), abs=1e-6)
        each = other(labels, said, average=None) if found.types else []
        assert [getattr(one, name) for one in found.types.values()] == pytest.approx(list(each), abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_entities_are_seqevals(tags):
    other = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    assert [(kind, first, end - 1) for kind, first, end in entities(tags)] == other(tags)


@given(sentences)
def test_types_add_up_and_sides_turn_around(rows):
    said, labels = columns(rows)
    found, back = span_scores(said, labels), span_scores(labels, said)
    for count in ("right", "predicted", "labelled"):
        assert getattr(found, count) == sum(getattr(one, count) for one in found.types.values())
    assert (found.precision, found.recall) == (back.recall, back.precision)
    assert (found.f1, found.accuracy) == (back.f1, back.accuracy)
    assert list(found.types) == sorted(found.types)
    own = span_scores(labels, labels)
    assert own.accuracy == 1 and all(one.f1 == 1 for one in own.types.values())


@given(sentences)
def test_no_span_reaches_over_the_end_of_a_sentence(rows):
    said, labels = columns(rows)
    split = span_scores(said, labels)
    joined = span_scores(*([list(chain(*([*one, "O"] for one in side)))] for side in (said, labels)))
    assert overall(split) == overall(joined) and split.types == joined.types


def test_a_share_of_nothing_is_nothing():
    assert overall(span_scores([["O"]], [["O"]])) == Found(0, 0, 0, 0, 0, 0)
    assert span_scores([["O"]], [["O"]]).types == {} and span_scores([["O"]], [["O"]]).accuracy == 1
    assert span_scores([["B-A"]], [["O"]]).types == {"A": Found(0, 0, 0, 0, 1, 0)}
    assert overall(span_scores([["O"], []], [["B-A"], []])) == Found(0, 0, 0, 0, 0, 1)


def test_what_cannot_be_scored_is_refused():
    for nothing in ([], [[]], [[], []]):
        with pytest.raises(ValueError, match=f"{len(nothing)} sentences without a token; expected at least one tag"):
            span_scores(nothing, nothing)
    with pytest.raises(ValueError, match="predictions for 1 sentences, labels for 2: expected the same ones"):
        span_scores([["O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match=r"sentence 1 has 1 predicted tags for 2 labels: .* fill up with O"):
        span_scores([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="sentence 0 of the predictions is 'B-PER': expected a list of tags"):
        span_scores(["B-PER"], [["B-PER"]])
    with pytest.raises(ValueError, match="sentence 0 of the labels is 'O O': expected a list of tags"):
        span_scores([["O", "O"]], "O O")
    with pytest.raises(ValueError, match=r"sentence 0 of the labels: token 1 has the tag -100: .*config\.id2label"):
        span_scores([["O", "O"]], [["O", -100]])
    for tag in ("PER", "", "X-PER", "BPER", "o", "O-PER", "PER-B"):
        with pytest.raises(ValueError, match=f"token 0 has the tag {tag!r}: expected O, or B, I, E, S"):
            entities([tag])
