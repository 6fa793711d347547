"""The columns that each kind of task reads, and files that one field uses.

Running text for language models, CoNLL's columns for taggers, SQuAD's json for questions: `records`
answers with the same records that `gossamer.rows` makes of csv and jsonl.
"""

from collections.abc import Iterator
from pathlib import Path

from gossamer.rows import Record, decoded, form_of, raw_lines, records_in

PASSAGE = 2000  # characters: lines of running text are read together up to about so many
COLUMNS: dict[str, tuple[str, str, str | None]] = {
    "text-classification": ("text", "text_pair", "label"),
    "text-regression": ("text", "text_pair", "label"),
    "token-classification": ("tokens", "", "tags"),
    "question-answering": ("question", "context", "answers"),
    "masked-lm": ("text", "", None),
    "causal-lm": ("text", "", None),
    "seq2seq": ("text", "", "target"),
    "sentence-embedding": ("text", "text_pair", "label"),
}  # of each kind of task its text, its pair ("": it has none) and its label (None: the text is all)
PLAIN = ("text-classification", "text-regression")  # which of the two it is, labels can say
RUNNING, TAGGED, ASKED = ("masked-lm", "causal-lm"), ("token-classification",), ("question-answering",)
SUFFIXES = {
    **dict.fromkeys(RUNNING, (".txt",)),
    **dict.fromkeys(TAGGED, (".conll", ".iob", ".iob2", ".bio", ".txt")),
    **dict.fromkeys(ASKED, (".json",)),
}


def unknown(kind: str) -> ValueError:
    """The error for a task that is none."""
    return ValueError(f"no task {kind!r}; expected one of: {', '.join(COLUMNS)}")


def columns_of(task: str | None, text: str, pair: str, label: str | None) -> tuple[str | None, str, str, str | None]:
    """The kind of task where it is more than a class or a number, and its columns where none are named ("").

    Raises:
        ValueError: no such task.
    """
    if task is not None and task not in COLUMNS:
        raise unknown(task)
    own = COLUMNS[task or PLAIN[0]]
    kind = None if task in PLAIN else task
    return kind, text or own[0], pair or own[1], own[2] if label == "" or own[2] is None else label


def special(path: Path, kind: str | None) -> bool:
    """Whether a file is in the format that this kind of task uses beside the general ones."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".bz2")]
    return bool(suffixes) and suffixes[-1] in SUFFIXES.get(kind or "", ())


def readable(path: Path, kind: str | None) -> bool:
    """Whether a file's name says that its contents can be read for this kind of task."""
    return special(path, kind) or form_of(path) is not None


def records(path: Path, kind: str | None, text: str, pair: str, label: str | None) -> Iterator[Record]:
    """The records of a file, with the columns called as they are asked for.

    Raises ValueError, as `gossamer.rows.records_in` does.
    """
    if not special(path, kind):
        yield from records_in(path, text, pair, label)
    elif kind in RUNNING:
        yield from _passages(path, text)
    elif kind in TAGGED:
        yield from _sentences(path, text, str(label))
    else:
        yield from _questions(path, text, pair, str(label))


def _passages(path: Path, text: str) -> Iterator[Record]:
    """Lines that are not blank, together up to PASSAGE characters; a longer line stands alone."""
    begun, lines, size = 0, list[str](), 0
    for number, line in enumerate(decoded(raw_lines(path), str(path)), 1):
        line = line.strip()
        if not line:
            continue
        if lines and size + len(line) > PASSAGE:
            yield begun, {text: "\n".join(lines)}
            lines, size = [], 0
        begun = begun if lines else number
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield begun, {text: "\n".join(lines)}
    if not begun:
        raise ValueError(f"{path} is empty; expected running text, a paragraph a line")


def _sentences(path: Path, text: str, label: str) -> Iterator[Record]:
    """A word and, in the last column, its tag on each line; blank lines between sentences (CoNLL-2003)."""
    begun, words, tags = 0, list[str](), list[str]()
    for number, line in enumerate(decoded(raw_lines(path), str(path)), 1):
        cells = line.split()
        if not words and cells[:1] == ["#"] and ("=" in line or cells[1:2] == ["id"]):
            continue  # a comment on the sentence below
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                yield begun, {text: words, label: tags}
            words, tags = [], []
            continue
        if len(cells) < 2:
            raise ValueError(f"{path}, line {number}: one column ({cells[0][:30]!r}), expected a word and its tag")
        begun = begun if words else number
        words.append(cells[0])
        tags.append(cells[-1])
    if words:
        yield begun, {text: words, label: tags}
    if not begun:
        raise ValueError(f"{path} is empty; expected a word and its tag on each line")


def _questions(path: Path, text: str, pair: str, label: str) -> Iterator[Record]:
    """SQuAD's json, version 1.1 or 2.0; the place is the question's number."""
    from gossamer.benchmarks.squad import read

    for number, one in enumerate(read(path), 1):
        answers = {"text": [answer for answer, _ in one.answers], "answer_start": [at for _, at in one.answers]}
        yield number, {text: one.question, pair: one.context, label: answers}
