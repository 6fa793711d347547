"""How much of a text's wording a reference has too: BLEU, chrF and ROUGE, of whole sets of texts.

BLEU of "BLEU: a Method for Automatic Evaluation of Machine Translation" (Papineni, Roukos, Ward, Zhu, ACL 2002), on
tokens as WMT cuts them (mteval-v13a), an order without a match smoothed as "A Systematic Comparison of Smoothing
Techniques for Sentence-Level BLEU" has it (Chen and Cherry, WMT 2014, method 3).  chrF of "chrF: character n-gram
F-score for automatic MT evaluation" (Popović, WMT 2015).  ROUGE-1, -2 and -L of "ROUGE: A Package for Automatic
Evaluation of Summaries" (Lin, 2004), on runs of the letters a to z and digits, without stemming.

Every score is a share in [0, 1], as in gossamer.benchmarks.scores; the literature prints them times 100.  BLEU and chrF
count over all texts together and are no means of the texts' own; ROUGE is the mean over texts.  They are the numbers of
sacrebleu and rouge-score with nothing set.  ROUGE's letters are English ones: a text in another script has no token.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import exp, log
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

References = Sequence[str | Sequence[str]]  # one for each hypothesis, or several for it

ORDERS = 4  # of BLEU, in words
SYMBOL = re.compile(r"([!-&(-+/:-@\[-`{-~])")  # ASCII's but ' , - .
STOP_AFTER = re.compile(r"([^0-9])([.,])")  # a full stop or comma is its own word but between digits
STOP_BEFORE = re.compile(r"([.,])([^0-9])")
DASH = re.compile(r"([0-9])(-)")
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))  # in this order
WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Bleu:
    """BLEU and what it is made of.

    precisions: of one word to four in a row, smoothed; all 0 where no word is right.  brevity: the factor for what is
    shorter than its references, 1 for what is not.  length, reference_length: in tokens, of all texts.
    """

    score: float
    precisions: tuple[float, ...]
    brevity: float
    length: int
    reference_length: int


@dataclass(frozen=True)
class Rouge:
    """F-measures of single words, of pairs of words, and of the longest common subsequence: means over the texts."""

    rouge1: float
    rouge2: float
    rouge_l: float


def bleu(hypotheses: Sequence[str], references: References) -> Bleu:
    """The geometric mean of the clipped precisions of orders 1 to 4, times the brevity penalty (section 2.3).

    hypotheses: n texts, not tokenized.  references: n texts, or n lists of texts; of several, the one nearest in length
    counts for brevity, the shorter of two as near.  The k-th order without a match has precision 1 / (2^k total); where
    no word matches, or no hypothesis has four tokens, the score is 0.
    Raises ValueError: no hypotheses, numbers that differ, a hypothesis without a reference, what is no text.
    """
    right, total = np.zeros(ORDERS, np.int64), np.zeros(ORDERS, np.int64)
    length = wanted = 0
    for text, given in _examples(hypotheses, references):
        said, answers = words_13a(text), [words_13a(one) for one in given]
        length += len(said)
        wanted += min((len(one) for one in answers), key=lambda n: (abs(n - len(said)), n))
        for n in range(1, ORDERS + 1):
            have = _runs(said, n)
            most = reduce(or_, (_runs(one, n) for one in answers))  # the most that any one reference has
            right[n - 1] += (have & most).total()
            total[n - 1] += have.total()
    precisions = _smoothed(right.tolist(), total.tolist())
    brevity = 1.0 if length >= wanted else exp(1 - wanted / length) if length else 0.0
    score = brevity * exp(sum(map(log, precisions)) / ORDERS) if all(precisions) else 0.0
    return Bleu(score, precisions, brevity, length, wanted)


def chrf(hypotheses: Sequence[str], references: References, beta: float = 2, orders: int = 6) -> float:
    """chrF: the F-measure of characters in a row, recall `beta` times as important as precision (equation 1).

    hypotheses: n texts.  references: n texts, or n lists of texts; of several, the one that scores best for the text.
    Spaces do not count.  Precision and recall are means over the orders 1 to `orders` that both sides are long enough
    for; 0 where there are none.
    Raises ValueError as `bleu` does, and for a beta or orders that are not positive.
    """
    if not beta > 0 or orders < 1:
        raise ValueError(f"beta={beta}, orders={orders}: expected a beta over 0 and at least one order")
    counts = np.zeros((orders, 3), np.int64)
    for text, given in _examples(hypotheses, references):
        said = _characters(text, orders)
        each = [_matches(said, _characters(one, orders)) for one in given]
        counts += max(each, key=lambda one: chrf_of(one, beta))  # of equals the first
    return chrf_of(counts, beta)


def chrf_counts(hypothesis: str, reference: str, orders: int = 6) -> NDArray[np.int64]:
    """What chrF counts of one text: (orders, 3), n-grams that match, of the text, and of its reference."""
    return _matches(_characters(hypothesis, orders), _characters(reference, orders))


def chrf_of(counts: NDArray[Any], beta: float = 2) -> float:
    """chrF of texts whose counts add up to `counts`, (orders, 3) as `chrf_counts` gives them."""
    both = counts[(counts[:, 0] > 0) & (counts[:, 1] > 0)]
    if not both[:, 2].any():
        return 0.0
    precision, recall = (both[:, 2] / both[:, side] for side in (0, 1))
    p, r = float(precision.mean()), float(recall.mean())
    return (1 + beta**2) * p * r / (beta**2 * p + r)


def rouge(hypotheses: Sequence[str], references: References) -> Rouge:
    """ROUGE-1, ROUGE-2 and ROUGE-L (sections 2 and 3.1) as balanced F-measures of a text and its reference.

    hypotheses: n texts.  references: n texts, or n lists of texts; of several, the best one for each measure apart.  A
    text without tokens, or for ROUGE-2 without two, scores 0, whatever its reference is.
    Raises ValueError as `bleu` does.
    """
    rows = []
    for text, given in _examples(hypotheses, references):
        said = words_plain(text)
        rows.append(np.max([_three(said, words_plain(one)) for one in given], axis=0))
    one, two, longest = np.mean(rows, axis=0).tolist()
    return Rouge(one, two, longest)


def words_13a(text: str) -> list[str]:
    """The tokens of mteval-v13a: symbols apart, full stops and commas apart but between digits, case kept."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, symbol in ENTITIES:
        text = text.replace(entity, symbol)
    text = SYMBOL.sub(r" \1 ", f" {text} ")
    text = STOP_BEFORE.sub(r" \1 \2", STOP_AFTER.sub(r"\1 \2 ", text))
    return DASH.sub(r"\1 \2 ", text).split()


def words_plain(text: str) -> list[str]:
    """ROUGE's tokens: runs of a to z and 0 to 9 in the text's small letters."""
    return WORD.findall(text.lower())


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Bit-parallel (Hyyrö, Australasian Workshop on Combinatorial Algorithms 2004): one step for each item of `other`.
    """
    places: dict[str, int] = {}
    for i, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << i
    full = free = (1 << len(one)) - 1  # a bit is taken once the subsequence has grown there
    for item in other:
        match = free & places.get(item, 0)
        free = (free + match | free - match) & full
    return len(one) - free.bit_count()


def _smoothed(right: list[int], total: list[int]) -> tuple[float, ...]:
    if not any(right):
        return (0.0,) * len(right)
    found, half = list[float](), 1.0
    for hits, n in zip(right, total, strict=True):
        half = half if hits or not n else half / 2
        found.append((hits or half) / n if n else 0.0)
    return tuple(found)


def _runs(items: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def _characters(text: str, orders: int) -> list[Counter[str]]:
    text = "".join(text.split())
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, orders + 1)]


def _matches(said: list[Counter[str]], given: list[Counter[str]]) -> NDArray[np.int64]:
    """(orders, 3): how many the text has, how many the reference has, and both.

    Of an order that the reference is too short for, the text counts as having none.
    """
    return np.array([(a.total() if b else 0, b.total(), (a & b).total()) for a, b in zip(said, given, strict=True)])


def _three(said: list[str], given: list[str]) -> list[float]:
    """The F-measures 2 hits / (said + given), which is 2PR / (P + R)."""
    found = list[float]()
    for n in (1, 2):
        have, want = _runs(said, n), _runs(given, n)
        size = have.total() + want.total()
        found.append(2 * (have & want).total() / size if size else 0.0)
    size = len(said) + len(given)
    return [*found, 2 * longest_common(said, given) / size if size else 0.0]


def _examples(hypotheses: Sequence[str], references: References) -> list[tuple[str, tuple[str, ...]]]:
    """Each hypothesis with its references, after a look at all of them."""
    for name, texts in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(texts, str):
            raise ValueError(f"{name} is a single text, {texts[:40]!r}: expected a list, one entry for each example")
    if not len(hypotheses) or len(hypotheses) != len(references):
        raise ValueError(
            f"{len(references)} references for {len(hypotheses)} hypotheses: expected at least one hypothesis, and for "
            "each its reference or a list of its references; of lists with one text for each example: "
            "list(zip(*lists))"
        )
    pairs = list[tuple[str, tuple[str, ...]]]()
    for i, (text, given) in enumerate(zip(hypotheses, references, strict=True)):
        answers = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else (given,)
        strange = [one for one in (text, *answers) if not isinstance(one, str)]
        if strange or not answers:
            what = f"{strange[0]!r} instead of a text" if strange else "no reference"
            raise ValueError(f"example {i} has {what}; expected a text, and at least one reference for it")
        pairs.append((text, answers))
    return pairs
