"""How easily one word after another can be replaced until the model changes its mind.

The search of TextFooler, "Is BERT Really Robust? A Strong Baseline for Natural Language Attack on Text Classification
and Entailment" (Jin, Jin, Zhou, Szolovits, AAAI 2020): rank the words by what their deletion does (equation 2), then
replace one after the other, most important first, by the candidate that hurts most.  Robustness of compressed models is
told in these terms by "Beyond Preserved Accuracy" (Xu et al., EMNLP 2021): accuracy after the attack, and queries.

It is not TextFooler itself: candidates come from an offline source instead of counter-fitted embeddings, and no
sentence encoder judges them.  Every result says so, by `attack` and the source's name: compare only equal ones.
Where the authors' code differs, this is the paper: a replacement must lower the probability of the *attacked* text, not
that of the first one.  Words that are never replaced (stop words) cost no query for ranking, nor does a lone candidate.
"""

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from gossamer.environment import install

from .calibration import right
from .disturb import neighbours
from .loyalty import Array, softmax
from .robustness import Edit, answers, check, edited
from .subject import Answers

ATTACK = "greedy word substitution"
WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
TOGETHER = 64  # texts under attack at the same time, so that their questions fill batches
_FUNCTION_WORDS = """
a about above across after again against all along already also although am among an and another any anybody anyone
anything anywhere are around as at away be became because become been before behind being below beside between beyond
both but by can cannot could did do does doing done down during each either else enough even ever every everybody
everyone everything except few for from further had has have having he hence her here hers herself him himself his how
however i if in indeed into is it its itself just less many may me might mine more most much must my myself neither
never no nobody none nor not nothing now nowhere of off on once one only onto or other others ought our ours ourselves
out over own per same shall she should since so some somebody someone something somewhere such than that the their
theirs them themselves then there therefore these they this those though three through thus to too toward towards two
under until up upon us was we were what whatever when where whether which while who whoever whom whose why will
with within without would yet you your yours yourself yourselves ain't aren't can't couldn't didn't doesn't don't
hadn't hasn't haven't he'd he'll he's i'd i'll i'm i've isn't it'd it'll it's let's mightn't mustn't needn't shan't
she'd she'll she's shouldn't that's there's they'd they'll they're they've wasn't we'd we'll we're we've weren't
what's who's won't wouldn't you'd you'll you're you've
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
BUNDLED = Path(__file__).with_name("synonyms.json")


class Source(Protocol):
    """Where replacements come from."""

    @property
    def name(self) -> str:
        """What a result is tagged with."""

    def candidates(self, word: str) -> Sequence[str]:
        """What may stand for a word in small letters, with its part of speech, the best first; empty for none."""


@dataclass(frozen=True)
class Synonyms:
    """A list of English synonyms by part of speech and form, written by hand for this package; or your own.

    path: JSON {"name", "date", "groups": {"noun plural": ["movies films pictures", ...], ...}}.
    A candidate has every part of speech that the word has in the list, for no tagger tells which one it has here.
    Raises ValueError, when first asked, for a file of another form.
    """

    path: str | Path = BUNDLED

    @property
    def name(self) -> str:
        """The name and date in the file."""
        return _synonyms(self.path)[0]

    def candidates(self, word: str) -> Sequence[str]:
        """Those of all groups that it is in, in the order of the file."""
        return _synonyms(self.path)[1].get(word, ())


@dataclass(frozen=True)
class CharacterEdits:
    """Typing errors inside words of four letters and more: for languages and words without a list of synonyms.

    Swapped, dropped, doubled and neighbouring keys, letter by letter; the first and the last letter stay.
    """

    name: str = "character edits"

    def candidates(self, word: str) -> Sequence[str]:
        """At most four for each inner letter."""
        if len(word) < 4 or not word.isalpha():
            return ()
        found: list[str] = []
        for i in range(1, len(word) - 1):
            head, letter, tail = word[:i], word[i], word[i + 1 :]
            if i < len(word) - 2:
                found.append(head + tail[0] + letter + tail[1:])
            found += [head + tail, head + 2 * letter + tail]
            found += [head + key + tail for key in neighbours(letter)[:1]]
        return found


@dataclass(frozen=True)
class FirstOf:
    """The candidates of the first source that has any for a word, as in FirstOf((Synonyms(), CharacterEdits()))."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """All their names."""
        return ", else ".join(source.name for source in self.sources)

    def candidates(self, word: str) -> Sequence[str]:
        """Of the first that has any."""
        return next(filter(None, (source.candidates(word) for source in self.sources)), ())


Outcome = Literal["skipped", "failed", "succeeded"]


@dataclass(frozen=True)
class Attempt:
    """One text under attack.

    skipped: it was misclassified to begin with.  text: as it ended.  queries: texts that the model was asked about, the
    clean one included.  words: in the clean text.  replaced: (word, replacement) in the order of the search.
    """

    outcome: Outcome
    text: str
    queries: int
    words: int
    replaced: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Attacked:
    """The attack on all texts.

    original_accuracy: (N - skipped) / N.  after_attack_accuracy: failed / N.  success_rate: succeeded / (succeeded +
    failed).  mean_queries: of those that were attacked.  perturbed: the mean share of words that it took, of those that
    succeeded.  The last three are None where there is nothing to average.
    """

    attack: str
    source: str
    edited: Edit
    candidates: int
    max_share: float
    examples: int
    skipped: int
    failed: int
    succeeded: int
    original_accuracy: float
    after_attack_accuracy: float
    success_rate: float | None
    mean_queries: float | None
    perturbed: float | None
    attempts: tuple[Attempt, ...]


def attack(
    predictor: Answers,
    texts: Sequence[str],
    labels: Any,
    *,
    pairs: Sequence[str] | None = None,
    source: Source = Synonyms(),
    candidates: int = 50,
    max_share: float = 1.0,
    edit: Edit | None = None,
    batch_size: int = 32,
) -> Attacked:
    """Attack every text that is classified rightly.  Nothing is drawn: the same model gives the same result.

    texts, pairs: n each.  labels: (n,) class indices.  candidates: the most that are tried for a word.  max_share: of
    the words of a text, the most that are replaced (one is always allowed).  edit: "first" or "second" of a pair; by
    default the second, the hypothesis of an inference.
    Raises ValueError when these do not fit each other, or when a model answers with anything but finite (n, classes).
    """
    check(texts, pairs, labels)
    if candidates < 1 or not 0 < max_share <= 1:
        raise ValueError(f"candidates={candidates}, max_share={max_share}: expected at least 1, and a share in (0, 1]")
    where = edited(edit, pairs)
    if where == "both":
        raise ValueError("edit='both': an attack edits one text of a pair; expected 'first' or 'second'")
    clean = answers(predictor, texts, pairs, batch_size)
    right(clean, labels)  # refuses labels that are no classes
    target, other = (texts, pairs) if where == "first" else (pairs or (), texts)

    def ask(rows: Sequence[int], changed: Sequence[str]) -> Array:
        rest = None if other is None else [other[i] for i in rows]
        first, second = (changed, rest) if where == "first" or rest is None else (rest, changed)
        return softmax(answers(predictor, first, second, batch_size))

    probabilities, attempts = softmax(clean), list[Attempt]()
    for start in range(0, len(texts), TOGETHER):
        rows = range(start, min(start + TOGETHER, len(texts)))
        searches = {i: search(target[i], int(labels[i]), probabilities[i], source, candidates, max_share) for i in rows}
        ended = dict(_side_by_side(searches, ask))
        attempts += [ended[i] for i in rows]
    return _summary(attempts, source.name, where, candidates, max_share)


def search(
    text: str, label: int, clean: Array, source: Source, candidates: int = 50, max_share: float = 1.0
) -> Generator[list[str], Array, Attempt]:
    """The attack on one text: yields the texts it wants to know about, and is sent their probabilities.

    clean: (classes,) probabilities of the text itself.  Sent: (texts yielded, classes).
    """
    words = list(WORD.finditer(text))
    if int(clean.argmax()) != label:
        return Attempt("skipped", text, 1, len(words))
    queries, most = 1, max(1, int(max_share * len(words)))
    places = [i for i, word in enumerate(words) if word[0].lower().replace("\u2019", "'") not in STOP_WORDS]
    if len(places) > 1:  # one needs no ranking; so no text is ever asked about that is empty
        told = yield [_without(text, words[i]) for i in places]
        queries += len(places)
        order = np.argsort(-_importance(clean, told, label), kind="stable")
        places = [places[i] for i in order]
    now, became, replaced = clean[label], {i: word[0] for i, word in enumerate(words)}, list[tuple[str, str]]()
    for place in places:
        word = words[place][0]
        options = _options(word, source, candidates)
        if not options:
            continue
        told = yield [_rewritten(text, words, became | {place: option}) for option in options]
        queries += len(options)
        fooled = told.argmax(-1) != label
        best = int(fooled.argmax() if fooled.any() else told[:, label].argmin())  # the source's best that succeeds
        if fooled[best] or told[best, label] < now:
            now, became[place] = told[best, label], options[best]
            replaced.append((word, options[best]))
        if fooled[best] or len(replaced) == most:
            ending: Outcome = "succeeded" if fooled[best] else "failed"
            return Attempt(ending, _rewritten(text, words, became), queries, len(words), tuple(replaced))
    return Attempt("failed", _rewritten(text, words, became), queries, len(words), tuple(replaced))


def textattack_model(predictor: Answers, batch_size: int = 32) -> Any:
    """The predictor as a model of the textattack package, for its own recipes (which download what they need).

    Raises ImportError, with what to type, where textattack is not installed.
    """
    try:
        wrapper: Any = import_module("textattack.models.wrappers").ModelWrapper
    except ImportError as error:
        raise ImportError(f"textattack's recipes need it installed; type: {install('textattack')}") from error

    class Model(wrapper):  # type: ignore[misc]
        """Texts, or pairs of texts, to (n, classes) probabilities."""

        model = predictor  # textattack looks at its class

        def __call__(self, inputs: Sequence[str | Sequence[str]]) -> Array:
            """Doubles, for textattack takes what does not add up to 1 within 1e-6 for logits."""
            if not inputs or isinstance(inputs[0], str):
                return softmax(answers(predictor, [str(one) for one in inputs], None, batch_size))
            return softmax(answers(predictor, [one[0] for one in inputs], [one[1] for one in inputs], batch_size))

    return Model()


def _side_by_side(
    searches: Mapping[int, Generator[list[str], Array, Attempt]], ask: Callable[[Sequence[int], Sequence[str]], Array]
) -> Iterator[tuple[int, Attempt]]:
    """Run searches in step: all that they want to know next goes into one call of ask(rows, texts)."""
    told: dict[int, Array | None] = dict.fromkeys(searches)
    while told:
        asked: dict[int, list[str]] = {}
        for i, answer in told.items():
            try:
                asked[i] = next(searches[i]) if answer is None else searches[i].send(answer)
            except StopIteration as end:
                yield i, end.value
        told = {}
        if asked:
            rows = [i for i, texts in asked.items() for _ in texts]
            answer = ask(rows, [text for texts in asked.values() for text in texts])
            ends = np.cumsum([len(texts) for texts in asked.values()])
            told = dict(zip(asked, np.split(answer, ends[:-1]), strict=True))


def _importance(clean: Array, told: Array, label: int) -> Array:
    """Equation 2: what deletion takes from the label, and where the answer changes, what it gives to the new one.

    clean: (classes,); told: (words, classes), of the text without each word -> (words,).
    """
    new = told.argmax(-1)
    gained = told[np.arange(len(told)), new] - clean[new]
    return np.asarray(clean[label] - told[:, label] + np.where(new != label, gained, 0))


def _options(word: str, source: Source, most: int) -> list[str]:
    """At most so many candidates, each once and none of them the word itself, in the word's case."""
    low = word.lower()
    found = dict.fromkeys(option for option in source.candidates(low) if option.strip() and option.lower() != low)
    shape: Callable[[str], str] = str
    if word.isupper() and len(word) > 1:
        shape = str.upper
    elif word[0].isupper():
        shape = _capital
    return [shape(option) for option in list(found)[:most]]


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def _without(text: str, word: re.Match[str]) -> str:
    """The text less a word and the space after it."""
    head, tail = text[: word.start()], text[word.end() :].lstrip()
    return head + tail if tail else head.rstrip()


def _rewritten(text: str, words: Sequence[re.Match[str]], became: Mapping[int, str]) -> str:
    """The text with each word as it became; what is between the words stays."""
    pieces, at = [], 0
    for i, word in enumerate(words):
        pieces += [text[at : word.start()], became[i]]
        at = word.end()
    return "".join([*pieces, text[at:]])


def _summary(attempts: Sequence[Attempt], source: str, where: Edit, candidates: int, max_share: float) -> Attacked:
    count = {outcome: sum(one.outcome == outcome for one in attempts) for outcome in ("skipped", "failed", "succeeded")}
    n, attacked = len(attempts), count["failed"] + count["succeeded"]
    queries = [one.queries for one in attempts if one.outcome != "skipped"]
    shares = [len(one.replaced) / one.words for one in attempts if one.outcome == "succeeded"]
    return Attacked(
        attack=ATTACK,
        source=source,
        edited=where,
        candidates=candidates,
        max_share=max_share,
        examples=n,
        **count,
        original_accuracy=(n - count["skipped"]) / n,
        after_attack_accuracy=count["failed"] / n,
        success_rate=count["succeeded"] / attacked if attacked else None,
        mean_queries=float(np.mean(queries)) if queries else None,
        perturbed=float(np.mean(shares)) if shares else None,
        attempts=tuple(attempts),
    )


@cache
def _synonyms(path: str | Path) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A source's name, and the candidates of every word in it."""
    try:
        file = json.loads(Path(path).read_text(encoding="utf-8"))
        name = f"{file['name']}, {file['date']}"
        groups = [(form, line.split()) for form, lines in file["groups"].items() for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is no list of synonyms: expected JSON {{"name", "date", "groups": {{"noun": ["film movie"]}}}}'
        ) from error
    forms: dict[str, set[str]] = {}
    for form, words in groups:
        for word in words:
            forms.setdefault(word, set()).add(form)
    found: dict[str, dict[str, None]] = {}
    for _, words in groups:
        for word in words:
            fits = {other: None for other in words if other != word and forms[word] <= forms[other]}
            found.setdefault(word.lower(), {}).update(fits)
    return name, {word: tuple(options) for word, options in found.items()}
