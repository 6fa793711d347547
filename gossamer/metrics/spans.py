"""How well a tagger finds names and phrases: precision, recall and F1 of whole spans, and the accuracy of its tags.

A span is right when its first token, its last token and its type are all right, as the shared tasks count it: "Text
Chunking using Transformation-Based Learning" (Ramshaw and Marcus, Third Workshop on Very Large Corpora, 1995) and
"Introduction to the CoNLL-2000 Shared Task: Chunking" (Tjong Kim Sang and Buchholz, 2000).

Tags are read as the shared tasks' script reads them, which takes every scheme and refuses no sequence: IOB1 (I- begins,
B- only parts two neighbours), IOB2 (B- always begins), BIOES and, in other letters, BILOU and BMES.  An I- or E- that
continues nothing begins a span.  That is seqeval's reading with nothing set; where its `mode="strict"` was used,
numbers differ.  Scores are shares in [0, 1].
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

TAG = re.compile(r"O|([BIESLUM])(?:-(.*))?", re.DOTALL)
SAME = {"L": "E", "U": "S", "M": "I"}  # last, unit, middle
NO_TYPE = "_"  # of a bare B or I, where there is only one kind of span

Span = tuple[str, int, int]  # type, first token, and the one past the last
Tags = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Found:
    """Precision, recall and F1 from counts of spans: right ones, predicted ones, labelled ones.

    A share of nothing is 0: precision where nothing was predicted, recall where nothing is labelled, F1 where neither.
    """

    precision: float
    recall: float
    f1: float
    right: int
    predicted: int
    labelled: int


@dataclass(frozen=True)
class Spans(Found):
    """The figures of all spans together (micro), and of each type.

    types: those among predictions or labels, by name.  accuracy: the share of tokens whose whole tag is right, O
    included.  tokens, sentences: how many.
    """

    types: dict[str, Found]
    accuracy: float
    tokens: int
    sentences: int


def span_scores(predictions: Tags, labels: Tags) -> Spans:
    """Score the tags of sentences against those of the labels.

    predictions, labels: for each sentence its tags, one for each token, such as ["B-PER", "I-PER", "O"]; a sentence may
    be empty.
    Raises ValueError: no token at all, sentences or tokens that are not one for one, what is no tag.
    """
    said, true = (_checked(tags, name) for tags, name in ((predictions, "predictions"), (labels, "labels")))
    if len(said) != len(true):
        raise ValueError(f"predictions for {len(said)} sentences, labels for {len(true)}: expected the same ones")
    for i, (one, other) in enumerate(zip(said, true, strict=True)):
        if len(one) != len(other):
            raise ValueError(
                f"sentence {i} has {len(one)} predicted tags for {len(other)} labels: expected one for each token; "
                "where the model cut the sentence short, fill up with O"
            )
    tokens = sum(map(len, true))
    if not tokens:
        raise ValueError(f"{len(true)} sentences without a token; expected at least one tag to score")
    same = sum(a == b for a, b in zip(chain(*said), chain(*true), strict=True))
    right, predicted, labelled = Counter[str](), Counter[str](), Counter[str]()
    for one, other in zip(said, true, strict=True):
        ours, theirs = set(entities(one)), set(entities(other))
        for counts, some in ((right, ours & theirs), (predicted, ours), (labelled, theirs)):
            counts.update(kind for kind, _, _ in some)
    types = {
        kind: Found(*_shares(right[kind], predicted[kind], labelled[kind])) for kind in sorted(predicted | labelled)
    }
    overall = _shares(right.total(), predicted.total(), labelled.total())
    return Spans(*overall, types, same / tokens, tokens, len(true))


def entities(tags: Sequence[str]) -> list[Span]:
    """The spans of one sentence, in order: (type, first token, the one past its last).

    A span goes on where an I or E of its type follows a B or I; it ends before anything else.  A bare letter has the
    type "_".
    Raises ValueError for what is no tag.
    """
    found = list[Span]()
    growing = False  # whether the span that was found last may go on
    for i, (mark, kind) in enumerate(_read(tags)):
        if mark == "O":
            growing = False
            continue
        if growing and mark in "IE" and kind == found[-1][0]:
            found[-1] = (kind, found[-1][1], i + 1)
        else:
            found.append((kind, i, i + 1))
        growing = mark in "BI"
    return found


def _read(tags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The letter of each tag, as BIOES has it, and its type."""
    for i, tag in enumerate(tags):
        match = TAG.fullmatch(tag) if isinstance(tag, str) else None
        if match is None:
            raise ValueError(
                f"token {i} has the tag {tag!r}: expected O, or B, I, E, S (or L, U, M) and a type, as in B-PER; of "
                "class numbers take the names first (config.id2label), and leave out what is padding (-100)"
            )
        mark, kind = match[1] or "O", match[2] or NO_TYPE
        yield SAME.get(mark, mark), kind


def _checked(tags: Any, name: str) -> list[list[str]]:
    """The sentences as lists, each tag looked at."""
    sentences = list[list[str]]()
    for i, sentence in enumerate([tags] if isinstance(tags, str) else tags):
        if isinstance(sentence, str):
            raise ValueError(f"sentence {i} of the {name} is {sentence!r}: expected a list of tags for each sentence")
        sentences.append(list(sentence))
        try:
            list(_read(sentences[-1]))
        except ValueError as error:
            raise ValueError(f"sentence {i} of the {name}: {error}") from None
    return sentences


def _shares(right: int, predicted: int, labelled: int) -> tuple[float, float, float, int, int, int]:
    """The fields of Found."""
    both = predicted + labelled
    precision, recall = (right / n if n else 0.0 for n in (predicted, labelled))
    return precision, recall, 2 * right / both if both else 0.0, right, predicted, labelled
