"""Texts with something wrong with them: what users type, and what attackers do to it, without a model or a download.

Typing errors as in "Synthetic and Natural Noise Both Break Neural Machine Translation" (Belinkov, Bisk, ICLR 2018);
look-alike letters of other scripts as in "Bad Characters: Imperceptible NLP Attacks" (Boucher, Shumailov, Anderson,
Papernot, IEEE S&P 2022); sentences that say nothing, appended, as in "Stress Test Evaluation for Natural Language
Inference" (Naik et al., COLING 2018).  After "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"
(Ribeiro, Wu, Guestrin, Singh, ACL 2020), what should leave the answer alone is told from what should change it.

    Typos(rate=0.1)("a fine film", seed=3)

The same seed and text give the same result, whatever other texts there are, in whatever order, in every process.  A
higher rate acts on the places that a lower one acts on, and more (WordSwap aside, whose swaps get in each other's way).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from random import Random
from typing import ClassVar, Literal, get_args

Draw = Callable[[], float]  # uniform in [0, 1)

ROWS = "qwertyuiop", "asdfghjkl", "zxcvbnm"  # each row stands half a key to the right of the one above
LOOKALIKES = str.maketrans(  # Cyrillic; Greek for N, v, X, Y and Z
    "aceijopsxyABCEHIJKMOPSTNvXYZ",
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
    "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u039d\u03bd\u03a7\u03a5\u0396",
)
TEMPLATES = "It is not true that {}", "It would be wrong to say that {}", "It is false that {}"
NEUTRAL = (
    "This was written on a Tuesday.",
    "The text ends here.",
    "One is one, and two is two.",
    "There are seven days in a week.",
)
OPENERS = {  # may lose their capital inside a sentence; of other words nobody knows
    *("A", "An", "The", "This", "That", "These", "Those", "There", "It", "He", "She", "They", "We", "You"),
    *("My", "Your", "His", "Her", "Its", "Our", "Their", "In", "On", "At", "As", "If", "When", "While"),
    *("All", "Some", "Every", "Each", "No", "One"),
}
LETTERS = re.compile(r"[^\W\d_]{2,}")  # a word's letters; a single letter leaves nothing to recognise
MARKS = re.compile(
    r"(?<!\w)['\u2019]|['\u2019](?!\w)|(?<!\d)[.,:]|[.,:](?!\d)|[;!?\"()\[\]\u2026\u201c\u201d]",
)
WORDS = re.compile(r"\S+")


def neighbours(letter: str) -> str:
    """The keys that touch this one on a QWERTY keyboard, in the letter's own case; "" for what is no such key."""
    low, found = letter.lower(), []
    for r, row in enumerate(ROWS):
        at = row.find(low)
        if at < 0 or len(low) != 1:
            continue
        places = [(r, at - 1), (r, at + 1), (r - 1, at), (r - 1, at + 1), (r + 1, at - 1), (r + 1, at)]
        found = [ROWS[y][x] for y, x in places if 0 <= y < len(ROWS) and 0 <= x < len(ROWS[y])]
    keys = "".join(found)
    return keys.upper() if letter != low else keys


@dataclass(frozen=True)
class Disturbance(ABC):
    """A text in, the disturbed text out.

    rate: the share of the places where it may act that it acts on, on average, from 0 to 1.
    preserving: whether the right answer stays the right answer; where not, it should become another one.
    Raises ValueError for a rate outside its range.
    """

    rate: float = 1.0
    preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"{type(self).__name__}(rate={self.rate}): expected a share from 0 to 1")
        for field, allowed in self.choices().items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{type(self).__name__}({field}={getattr(self, field)!r}): expected one of {', '.join(allowed)}"
                )

    @property
    def name(self) -> str:
        """What a report calls it, as in "case: upper"."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).lower()
        return ": ".join([words, *(str(getattr(self, field)) for field in self.choices())])

    def choices(self) -> dict[str, tuple[str, ...]]:
        """The fields that name a variant, and what they may be."""
        return {}

    def __call__(self, text: str, seed: int = 0) -> str:
        """The text, disturbed; as it was where there is nothing in it, or nothing would be left of it."""
        if not text.strip():
            return text
        key = f"{self.name}\0{seed}\0{text}".encode("utf-8", "surrogatepass")
        draw = Random(int.from_bytes(blake2b(key, digest_size=8).digest(), "big")).random
        edited = self.edit(text, draw)
        return edited if edited.strip() else text

    @abstractmethod
    def edit(self, text: str, draw: Draw) -> str:
        """The text, disturbed by what `draw` says; may come out empty."""


def disturbed(texts: Sequence[str], disturbance: Disturbance, seed: int = 0) -> list[str]:
    """Every text, disturbed, in the order given."""
    return [disturbance(text, seed) for text in texts]


TypoKind = Literal["any", "neighbour", "swap", "drop", "double"]


@dataclass(frozen=True)
class Typos(Disturbance):
    """Letters of words (of two and more): a neighbouring key, swapped with the next, dropped or doubled.

    A letter that is on no key is doubled instead of replaced; the last of a word is swapped with the one before.
    """

    rate: float = 0.05
    kind: TypoKind = "any"

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Which error, or any of them."""
        return {"kind": get_args(TypoKind)}

    def edit(self, text: str, draw: Draw) -> str:
        """At most one error for each letter."""
        return LETTERS.sub(lambda found: self._word(found[0], draw) or found[0], text)

    def _word(self, word: str, draw: Draw) -> str:
        letters = list(word)
        for i in range(len(letters)):
            here, which, key = draw(), draw(), draw()  # always three, so that a rate does not shift what follows
            if here >= self.rate:
                continue
            kind = _pick(get_args(TypoKind)[1:], which) if self.kind == "any" else self.kind
            if kind == "swap":
                j = i + 1 if i + 1 < len(letters) else i - 1
                letters[i], letters[j] = letters[j], letters[i]
            elif kind == "drop":
                letters[i] = ""
            else:
                keys = neighbours(letters[i]) if kind == "neighbour" else ""
                letters[i] = _pick(keys, key) if keys else letters[i] + letters[i][-1:]
        return "".join(letters)


CaseKind = Literal["upper", "lower", "title", "random"]


@dataclass(frozen=True)
class Case(Disturbance):
    """Words in capitals, in small letters, with one capital each, or with a coin tossed for each letter."""

    rate: float = 1.0
    kind: CaseKind = "random"

    def choices(self) -> dict[str, tuple[str, ...]]:
        """What becomes of the words."""
        return {"kind": get_args(CaseKind)}

    def edit(self, text: str, draw: Draw) -> str:
        """Word by word."""
        return WORDS.sub(lambda found: self._word(found[0], draw), text)

    def _word(self, word: str, draw: Draw) -> str:
        here, tosses = draw(), [draw() for _ in word]
        if here >= self.rate:
            return word
        if self.kind == "random":
            return "".join(c.upper() if toss < 0.5 else c.lower() for c, toss in zip(word, tosses, strict=True))
        if self.kind == "title":
            return word[:1].upper() + word[1:].lower()
        return word.upper() if self.kind == "upper" else word.lower()


PunctuationKind = Literal["removed", "doubled", "added"]


@dataclass(frozen=True)
class Punctuation(Disturbance):
    """Marks removed, doubled, or one added after words that have none.

    An apostrophe inside a word and a mark inside a number are left alone: 35 is not 3.5.
    """

    rate: float = 1.0
    kind: PunctuationKind = "removed"

    def choices(self) -> dict[str, tuple[str, ...]]:
        """What becomes of the marks."""
        return {"kind": get_args(PunctuationKind)}

    def edit(self, text: str, draw: Draw) -> str:
        """Mark by mark; added: word by word."""
        if self.kind == "added":
            return re.sub(r"(?<=\w)(?=\s|$)", lambda _: self._added(draw(), draw()), text)
        repeat = 0 if self.kind == "removed" else 2
        return MARKS.sub(lambda found: found[0] * repeat if draw() < self.rate else found[0], text)

    def _added(self, here: float, which: float) -> str:
        return _pick(",.;!", which) if here < self.rate else ""


@dataclass(frozen=True)
class WordDrop(Disturbance):
    """Words left out, each with the space after it; one word always stays."""

    rate: float = 0.1

    def edit(self, text: str, draw: Draw) -> str:
        """Word by word."""
        words = list(re.finditer(r"\S+\s*", text))
        drawn = [draw() for _ in words]
        stays = max(drawn)  # what the highest rate would drop last
        kept = (w[0] for w, here in zip(words, drawn, strict=True) if here >= self.rate or here == stays)
        return text[: words[0].start()] + "".join(kept)


@dataclass(frozen=True)
class WordSwap(Disturbance):
    """Words changed for the next one; no word moves twice."""

    rate: float = 0.1

    def edit(self, text: str, draw: Draw) -> str:
        """Pair by pair, from the left; what is between the words stays between them."""
        pieces = re.split(r"(\s+)", text)  # words at even places, perhaps "" at the ends
        words = [i for i, piece in enumerate(pieces) if piece and not piece.isspace()]
        moved = -1
        for one, other in pairwise(words):
            if draw() < self.rate and one != moved:
                pieces[one], pieces[other] = pieces[other], pieces[one]
                moved = other
        return "".join(pieces)


@dataclass(frozen=True)
class Homoglyphs(Disturbance):
    """Latin letters replaced by Cyrillic or Greek ones that look the same."""

    rate: float = 0.1

    def edit(self, text: str, draw: Draw) -> str:
        """Letter by letter."""
        return "".join(c.translate(LOOKALIKES) if draw() < self.rate else c for c in text)


WhitespaceKind = Literal["widened", "joined"]


@dataclass(frozen=True)
class Whitespace(Disturbance):
    """Spaces between words doubled or turned into a tab or a line break; or left out, which joins two words."""

    rate: float = 0.5
    kind: WhitespaceKind = "widened"

    def choices(self) -> dict[str, tuple[str, ...]]:
        """What becomes of the spaces."""
        return {"kind": get_args(WhitespaceKind)}

    def edit(self, text: str, draw: Draw) -> str:
        """Gap by gap."""
        return re.sub(r"(?<=\S)\s+(?=\S)", lambda found: self._gap(found[0], draw(), draw()), text)

    def _gap(self, gap: str, here: float, which: float) -> str:
        if here >= self.rate:
            return gap
        return "" if self.kind == "joined" else _pick(("  ", "\t", "\n"), which)


@dataclass(frozen=True)
class Negation(Disturbance):
    """The statement denied: "It is not true that ...".  The answer should change; to what, only the task knows.

    rate: the share of the texts that are denied.
    """

    rate: float = 1.0
    preserving: ClassVar[bool] = False

    def edit(self, text: str, draw: Draw) -> str:
        """One of TEMPLATES, around the text."""
        if draw() >= self.rate:
            return text
        text = text.strip()
        first = text.split(maxsplit=1)[0]
        return _pick(TEMPLATES, draw()).format(first.lower() + text[len(first) :] if first in OPENERS else text)


@dataclass(frozen=True)
class Truncation(Disturbance):
    """The last words cut away; at least the first stays.

    rate: the share of the words that go; 0.5 keeps the first half, its middle word included.  Not even people could
    always tell the answer from the rest: read the drop against the baseline's, not against zero.
    """

    rate: float = 0.5

    def edit(self, text: str, draw: Draw) -> str:
        """By count of words."""
        words = list(WORDS.finditer(text))
        keep = len(words) - int(self.rate * len(words))
        return text[: words[max(keep, 1) - 1].end()] if keep < len(words) else text


@dataclass(frozen=True)
class Appended(Disturbance):
    """A sentence that says nothing of the matter, after the text.

    rate: the share of the texts that get one.
    """

    rate: float = 1.0

    def edit(self, text: str, draw: Draw) -> str:
        """One of NEUTRAL, after the text."""
        return f"{text.rstrip()} {_pick(NEUTRAL, draw())}" if draw() < self.rate else text


SUITE: tuple[Disturbance, ...] = (
    Typos(),
    *(Case(kind=kind) for kind in get_args(CaseKind)),
    *(Punctuation(kind=kind) for kind in get_args(PunctuationKind)),
    WordDrop(),
    WordSwap(),
    Homoglyphs(),
    *(Whitespace(kind=kind) for kind in get_args(WhitespaceKind)),
    Truncation(),
    Appended(),
    Negation(),
)


def _pick(options: Sequence[str], drawn: float) -> str:
    """One of them; random.choice is not promised to choose the same in every Python."""
    return options[int(drawn * len(options))]
