"""A passage against those that are right, word by word (SQuAD; Rajpurkar et al., EMNLP 2016)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: other marks stay, as in the official script


def normalize(text: str) -> str:
    """Small letters, without ASCII punctuation and the articles a, an, the; single spaces between words."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact(prediction: str, golds: str | Sequence[str]) -> float:
    """1 if the prediction is one of the golds after `normalize`, else 0; no golds at all: the answer is none, "".

    A bare string is a single gold.
    """
    said = normalize(prediction)
    return float(any(said == normalize(gold) for gold in _golds(golds)))


def token_f1(prediction: str, golds: str | Sequence[str]) -> float:
    """The best F1 of words, counted with repetition, against any of the golds after `normalize` -> [0, 1].

    Where prediction or gold has no words left, 1 if both have none and 0 otherwise.  No golds at all: the answer is
    none, "".  A bare string is a single gold.
    """
    said = Counter(normalize(prediction).split())
    return max(_f1(said, Counter(normalize(gold).split())) for gold in _golds(golds))


def _golds(golds: str | Sequence[str]) -> Sequence[str]:
    return (golds,) if isinstance(golds, str) else golds or ("",)


def _f1(said: Counter[str], gold: Counter[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    return 2 * (said & gold).total() / (said.total() + gold.total())
