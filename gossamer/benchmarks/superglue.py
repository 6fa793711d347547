"""SuperGLUE: eight tasks harder than GLUE's, and two diagnostic sets.

"SuperGLUE: A Stickier Benchmark for General-Purpose Language Understanding Systems" (Wang, Pruksachatkun, Nangia,
Singh, Michael, Hill, Levy and Bowman, NeurIPS 2019).  The leaderboard averages over eight tasks without weights, and of
a task with two metrics takes their mean first.  MultiRC (Khashabi et al., NAACL 2018): F1_a over all answer options
together, and the share of questions with every option right.  ReCoRD (Zhang et al., 2018): exact match and token F1,
the best over all mentions of the right entity, normalised as SQuAD's.  Scores are in [-1, 1]; the leaderboard prints
them times 100.

The files hold objects of several shapes, so every task has its own kind of row; each row is one thing to predict, and
carries its `idx`, by which the leaderboard knows it.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gossamer.data import Data, Split
from gossamer.metrics.passages import exact, token_f1

from . import scores
from .files import classes, complete, field, found, objects, write_all

TRUTH = ("false", "true")
ENTAILS = ("entailment", "not_entailment")
RIGHT = ("0", "1")  # whether an option is the right one
ASKED = {"cause": "What was the cause?", "effect": "What happened as a result?"}
Span = tuple[int, int]  # characters, the second one past the end


class Row(Protocol):
    """What all rows have. idx: one number, or for MultiRC (passage, question, answer). label: None in the test."""

    @property
    def idx(self) -> Any:
        """By which the leaderboard knows it."""

    @property
    def label(self) -> Any:
        """The class index; the right answers of ReCoRD; None where it is not told."""


@dataclass(frozen=True)
class Pair:
    """Two texts and a class: BoolQ (question, passage), CB and RTE and AX-b and AX-g (premise, hypothesis)."""

    idx: int
    text: str
    pair: str
    label: int | None


@dataclass(frozen=True)
class Choice:
    """COPA: which of two choices (0 or 1) is the "cause" or the "effect" of the premise."""

    idx: int
    premise: str
    question: str
    choices: tuple[str, str]
    label: int | None


@dataclass(frozen=True)
class Option:
    """MultiRC: one answer option to a question on a passage, right (1) or not (0). idx: passage, question, answer."""

    idx: tuple[int, int, int]
    passage: str
    question: str
    answer: str
    label: int | None


@dataclass(frozen=True)
class Cloze:
    """ReCoRD: which entity of the passage `@placeholder` stands for in the query.

    entities: the different texts, in the order in which the file names them.  label: all texts that are right.
    """

    idx: int
    passage: str
    query: str
    entities: tuple[str, ...]
    label: tuple[str, ...] | None


@dataclass(frozen=True)
class Word:
    """WiC: whether a word has the same sense (1) in two sentences; spans of characters, the end past the word."""

    idx: int
    word: str
    sentences: tuple[str, str]
    spans: tuple[Span, Span]
    label: int | None


@dataclass(frozen=True)
class Mention:
    """WSC: whether two stretches of a text mean the same (1).

    texts: as annotated; now and then their case or punctuation differs from the text's.  words: the place of the first
    word of each, counted in `text.split()`.
    """

    idx: int
    text: str
    texts: tuple[str, str]
    words: tuple[int, int]
    label: int | None


@dataclass(frozen=True)
class Task:
    """One task.

    name: of its folder, and of the file for the leaderboard.  labels: the classes in order of their index, as written
    there; empty for ReCoRD, whose answers are texts.  rows: makes the rows of one object of the file.  score: the
    metrics of predictions for rows.  written: what stands for a class in the leaderboard's file.
    """

    name: str
    labels: tuple[str, ...]
    rows: Callable[["Task", dict[str, Any], str], Iterator[Row]]
    score: Callable[[Sequence[Row], Sequence[Any]], dict[str, float]]
    written: tuple[Any, ...] = ()
    diagnostic: bool = False

    def places(self, part: str) -> tuple[str, ...]:
        """Where the file of train, dev or test may be. ValueError: a part that the task has not."""
        parts = {"train": "train", "dev": "val", "test": "test"}
        if part not in parts or (self.diagnostic and part != "test"):
            has = "'test'" if self.diagnostic else ", ".join(map(repr, parts))
            raise ValueError(f"{self.name} has no part '{part}'; expected {has}")
        file = f"{self.name if self.diagnostic else parts[part]}.jsonl"
        return f"{self.name}/{file}", file


def _pairs(text: str, pair: str) -> Callable[[Task, dict[str, Any], str], Iterator[Row]]:
    def rows(task: Task, record: dict[str, Any], where: str) -> Iterator[Row]:
        yield Pair(
            _idx(record, where), _text(record, text, where), _text(record, pair, where), _label(task, record, where)
        )

    return rows


def _choices(task: Task, record: dict[str, Any], where: str) -> Iterator[Row]:
    premise, question, *choices = (_text(record, key, where) for key in ("premise", "question", "choice1", "choice2"))
    if question not in ("cause", "effect"):
        raise ValueError(f"{where}: 'question' is '{question}', expected 'cause' or 'effect'")
    yield Choice(_idx(record, where), premise, question, (choices[0], choices[1]), _label(task, record, where))


def _options(task: Task, record: dict[str, Any], where: str) -> Iterator[Row]:
    passage = field(record, "passage", dict, where)
    for question in field(passage, "questions", list, where):
        for answer in field(question, "answers", list, where):
            idx = _idx(record, where), _idx(question, where), _idx(answer, where)
            texts = _text(passage, "text", where), _text(question, "question", where), _text(answer, "text", where)
            yield Option(idx, *texts, _label(task, answer, where))


def _clozes(_: Task, record: dict[str, Any], where: str) -> Iterator[Row]:
    passage = field(record, "passage", dict, where)
    text = _text(passage, "text", where)
    entities = []
    for entity in field(passage, "entities", list, where):
        start, end = field(entity, "start", int, where), field(entity, "end", int, where)
        if not 0 <= start <= end <= len(text):
            raise ValueError(f"{where}: an entity from {start} to {end} in a passage of {len(text)} characters")
        entities.append(text[start : end + 1])  # the file counts the last character in
    for query in field(record, "qas", list, where):
        right = query.get("answers") if isinstance(query, dict) else None
        golds = tuple(dict.fromkeys(_text(answer, "text", where) for answer in right)) if right else None
        yield Cloze(_idx(query, where), text, _text(query, "query", where), tuple(dict.fromkeys(entities)), golds)


def _words(task: Task, record: dict[str, Any], where: str) -> Iterator[Row]:
    sentences = _text(record, "sentence1", where), _text(record, "sentence2", where)
    spans = []
    for number, sentence in enumerate(sentences, 1):
        start, end = (field(record, f"{edge}{number}", int, where) for edge in ("start", "end"))
        if not 0 <= start < end <= len(sentence):
            raise ValueError(f"{where}: word {number} from {start} to {end} of {len(sentence)} characters")
        spans.append((start, end))
    word = _text(record, "word", where)
    yield Word(_idx(record, where), word, sentences, (spans[0], spans[1]), _label(task, record, where))


def _mentions(task: Task, record: dict[str, Any], where: str) -> Iterator[Row]:
    target, text = field(record, "target", dict, where), _text(record, "text", where)
    texts = _text(target, "span1_text", where), _text(target, "span2_text", where)
    words = field(target, "span1_index", int, where), field(target, "span2_index", int, where)
    for place in words:
        if not 0 <= place < len(text.split()):
            raise ValueError(f"{where}: a span from word {place} in a text of {len(text.split())} words")
    yield Mention(_idx(record, where), text, texts, words, _label(task, record, where))


def _accuracy(rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
    return {"accuracy": scores.accuracy(said, [row.label for row in rows])}


def _accuracy_and_f1(rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
    return _accuracy(rows, said) | {"macro_f1": scores.macro_f1(said, [row.label for row in rows])}


def _all_options(rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
    labels = [row.label for row in rows]
    questions = defaultdict[tuple[int, int], list[bool]](list)
    for row, one in zip(rows, said, strict=True):
        questions[row.idx[:2]].append(one == row.label)
    return {"f1_a": scores.f1(said, labels), "exact": sum(map(all, questions.values())) / len(questions)}


def _texts(rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
    both = [(exact(one, row.label), token_f1(one, row.label)) for row, one in zip(rows, said, strict=True)]
    return {"exact": sum(em for em, _ in both) / len(both), "f1": sum(f1 for _, f1 in both) / len(both)}


def _matthews(rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
    return {"matthews": scores.matthews(said, [row.label for row in rows])}


def _parity(rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
    return _accuracy(rows, said) | {"gender_parity": gender_parity(said)}


def gender_parity(predictions: Sequence[Any]) -> float:
    """AX-g: the share of minimal pairs, which differ in the pronoun's gender alone, that get the same answer.

    predictions: (2 n,) in the order of the official file, where the two of a pair stand one after the other.
    Raises ValueError: none, or an odd number of them.
    """
    if not len(predictions) or len(predictions) % 2:
        raise ValueError(f"{len(predictions)} predictions for AX-g; expected two for each pair, in the file's order")
    same = [bool(one == other) for one, other in zip(predictions[::2], predictions[1::2], strict=True)]
    return sum(same) / len(same)


PREMISE = _pairs("premise", "hypothesis")
BOOLQ = Task("BoolQ", TRUTH, _pairs("question", "passage"), _accuracy)
CB = Task("CB", ("entailment", "contradiction", "neutral"), PREMISE, _accuracy_and_f1)
COPA = Task("COPA", ("0", "1"), _choices, _accuracy, (0, 1))
MULTIRC = Task("MultiRC", ("0", "1"), _options, _all_options, (0, 1))
RECORD = Task("ReCoRD", (), _clozes, _texts)
RTE = Task("RTE", ENTAILS, PREMISE, _accuracy)
WIC = Task("WiC", TRUTH, _words, _accuracy)
WSC = Task("WSC", TRUTH, _mentions, _accuracy, ("False", "True"))
AXB = Task("AX-b", ENTAILS, _pairs("sentence1", "sentence2"), _matthews, diagnostic=True)
AXG = Task("AX-g", ENTAILS, PREMISE, _parity, diagnostic=True)

CHOSEN = (COPA, RECORD)  # a row is several options, of which one is chosen
HOW = {  # where the wording is ours, in words for a report
    COPA.name: "each choice is a pair with the premise and its question; the one that scores higher as right is chosen",
    RECORD.name: "each entity is put in the query, a pair with the passage; the one that scores highest is chosen",
    WIC.name: "a pair: the word, a colon and the first sentence; the second sentence",
    WSC.name: "a pair: the text with the pronoun between asterisks; the name",
}
TASKS = (BOOLQ, CB, COPA, MULTIRC, RECORD, RTE, WIC, WSC, AXB, AXG)  # the files of a submission
AVERAGED = {task.name: (task.name,) for task in TASKS if not task.diagnostic}


def read(task: Task, folder: str | Path, part: str) -> tuple[Row, ...]:
    """The rows of one part ("train", "dev" or "test"; of a diagnostic set only "test"), in the official order.

    folder: the one that holds all tasks, or the task's own.
    Raises FileNotFoundError: the file is missing.  ValueError: an entry that is missing or of a wrong type, a label
    that the task has not, a span outside its text, a part that the task has not.
    """
    path = found(folder, task.places(part), f"{part} of {task.name}")
    rows = tuple(row for where, record in objects(path) for row in task.rows(task, record, where))
    if not rows:
        raise ValueError(f"{path} has nothing to predict; expected rows of {task.name}")
    bare = sum(row.label is None for row in rows)
    if bare and (part != "test" or bare < len(rows)):
        raise ValueError(f"{path}: {bare} of {len(rows)} rows have no label, expected one each")
    return rows


def pairs(row: Row) -> list[tuple[str, str]]:
    """The pairs of texts that a classifier of pairs is asked about a row.

    BoolQ (question, passage); CB, RTE, AX-b and AX-g (premise, hypothesis); MultiRC (passage and question, option).
    WiC ("word: first sentence", second sentence).  WSC (text with the second mention between asterisks, first mention).
    COPA: for each choice (premise and what is asked of it in words, choice).  ReCoRD: for each entity (passage, query
    with it in the place of `@placeholder`).  The last four are our own wording: the benchmark prescribes none, so a
    model has to be trained with the same (`load`).
    Raises ValueError: a cloze without entities.
    """
    match row:
        case Pair():
            return [(row.text, row.pair)]
        case Option():
            return [(f"{row.passage} {row.question}", row.answer)]
        case Word():
            return [(f"{row.word}: {row.sentences[0]}", row.sentences[1])]
        case Mention():
            words, start = row.text.split(), row.words[1]
            end = min(start + max(1, len(row.texts[1].split())), len(words))
            marked = [*words[:start], "*" + " ".join(words[start:end]) + "*", *words[end:]]
            return [(" ".join(marked), row.texts[0])]
        case Choice():
            return [(f"{row.premise} {ASKED[row.question]}", choice) for choice in row.choices]
        case Cloze() if row.entities:
            return [(row.passage, row.query.replace("@placeholder", entity)) for entity in row.entities]
    raise ValueError(f"{type(row).__name__} {row.idx} has nothing to choose from; expected an entity or more")


def split(rows: Sequence[Row]) -> Split:
    """Rows as pairs of texts and a class each, as `pairs` words them.

    Of COPA and ReCoRD a row is several pairs, the class of each whether it is right (1) or not (0).
    """
    texts, others, labels = list[str](), list[str](), list[int | None]()
    for row in rows:
        found = pairs(row)
        texts += [text for text, _ in found]
        others += [other for _, other in found]
        if row.label is None or not isinstance(row, (Choice, Cloze)):
            labels += [row.label] * len(found)
        elif isinstance(row, Choice):
            labels += [int(i == row.label) for i in range(len(found))]
        else:
            labels += [int(entity in row.label) for entity in row.entities]
    told = tuple(label for label in labels if label is not None)
    return Split(tuple(texts), tuple(others), told if len(told) == len(labels) else None)


def chosen(rows: Sequence[Row], right: Any) -> list[Any]:
    """What COPA's and ReCoRD's rows are answered with: the choice's number, the entity's text.

    right: for each pair that `split` makes of the rows, how right it is, the more the higher; of equals the first wins.
    Raises ValueError: another number of them, rows of other tasks.
    """
    answers, start = list[Any](), 0
    for row in rows:
        if not isinstance(row, (Choice, Cloze)):
            raise ValueError(f"a {type(row).__name__} has nothing to choose from; expected rows of COPA or ReCoRD")
        options = range(2) if isinstance(row, Choice) else row.entities
        said = [float(one) for one in right[start : start + len(options)]]
        if len(said) == len(options):
            answers.append(options[max(range(len(said)), key=said.__getitem__)])
        start += len(options)
    if start != len(right):
        raise ValueError(f"{len(right)} scores of options, expected {start}, one for each that the rows have")
    return answers


def load(task: Task, folder: str | Path, need: Sequence[str] | None = None) -> Data:
    """The parts needed of a task as pairs of texts: train and dev unless told otherwise (of a diagnostic set, test).

    Raises as `read` and `split` do.
    """
    need = need or (("test",) if task.diagnostic else ("train", "dev"))
    parts = {part: split(read(task, folder, part)) for part in need}
    return Data(task.name, parts.get("train"), parts.get("dev"), parts.get("test"), task.labels or RIGHT)


def score(task: Task, rows: Sequence[Row], predictions: Sequence[Any]) -> dict[str, float]:
    """Every metric of the task by its name.

    predictions: one for each row, in order: class indices, truth values or class names; of ReCoRD texts.
    Raises ValueError: other lengths, rows without labels, a class that the task has not.
    """
    said = _said(task, rows, predictions)
    if any(row.label is None for row in rows):
        raise ValueError(f"{task.name}: the rows carry no labels; the test is scored by the leaderboard alone")
    return task.score(rows, said)


def standing(results: Mapping[str, Mapping[str, float]], without: Iterable[str] = ()) -> scores.Standing:
    """SuperGLUE's average of what `score` gave, by the names of the tasks; AX-b and AX-g never count.

    A task that is missing leaves no average.  Raises ValueError: a name that is no task of SuperGLUE.
    """
    return scores.standing(results, AVERAGED, without, (AXB.name, AXG.name))


def submission(task: Task, rows: Sequence[Row], predictions: Sequence[Any]) -> str:
    """What the leaderboard takes for a task: a line of JSON with `idx` and `label` for each row; MultiRC's are nested.

    rows: of the official test.  predictions: as in `score`.  Raises ValueError as `score` does.
    """
    said = _said(task, rows, predictions)
    written = task.written or task.labels
    labels = [written[one] for one in said] if written else said
    if task is not MULTIRC:
        return "".join(json.dumps({"idx": row.idx, "label": one}) + "\n" for row, one in zip(rows, labels, strict=True))
    passages = defaultdict[int, dict[int, list[dict[str, Any]]]](lambda: defaultdict(list))
    for row, one in zip(rows, labels, strict=True):
        passage, question, answer = row.idx
        passages[passage][question].append({"idx": answer, "label": one})
    return "".join(
        json.dumps({"idx": p, "passage": {"questions": [{"idx": q, "answers": a} for q, a in questions.items()]}})
        + "\n"
        for p, questions in passages.items()
    )


def submit(
    predictions: Mapping[str, tuple[Sequence[Row], Sequence[Any]]], folder: str | Path, *, replace: bool = False
) -> list[Path]:
    """Write all ten files of a submission, NAME.jsonl each; the leaderboard takes no fewer.

    predictions: by the name of the task the rows of its test and the predictions for them.
    Raises ValueError before anything is written: a task that is missing or unknown, a file that exists without
    `replace`, what `submission` refuses.
    """
    complete([task.name for task in TASKS], predictions)
    place = Path(folder)
    texts = {place / f"{task.name}.jsonl": submission(task, *predictions[task.name]) for task in TASKS}
    return write_all(texts, replace)


def _said(task: Task, rows: Sequence[Row], predictions: Sequence[Any]) -> list[Any]:
    """Class indices, or ReCoRD's texts. ValueError: other lengths, what is neither."""
    if len(rows) != len(predictions) or not len(rows):
        raise ValueError(f"{task.name}: {len(predictions)} predictions for {len(rows)} rows, expected one each")
    if task.labels:
        return classes(task.name, task.labels, predictions)
    for number, one in enumerate(predictions, 1):
        if not isinstance(one, str):
            raise ValueError(f"{task.name}, prediction {number}: {one!r}, expected the text of an entity")
    return [str(one) for one in predictions]


def _idx(record: Any, where: str) -> int:
    return int(field(record, "idx", int, where))


def _text(record: Any, key: str, where: str) -> str:
    return str(field(record, key, str, where))


def _label(task: Task, record: dict[str, Any], where: str) -> int | None:
    if "label" not in record:
        return None
    value = field(record, "label", (str, bool, int), where)
    if isinstance(value, bool) or task.labels == TRUTH:
        value = str(value).lower()
    return classes(task.name, task.labels, [value], lambda _: f"{where}, 'label'")[0]
