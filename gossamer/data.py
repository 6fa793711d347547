"""Labelled text for training and measuring, and texts to predict.

`read` takes a csv, tsv, jsonl or parquet file, a folder of such files, a data set of the hub, or the embedded
"rotten-tomatoes", and answers with train, dev and test. `lines` reads a stream of any length in constant memory.
Neither torch nor transformers is imported here; pyarrow and datasets only where a source needs them.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from gossamer.formats import columns_of
from gossamer.labels import numbers, passages, some, tags, targets, translation, values
from gossamer.rows import Record, Rows, decoded, form_of, no_column, raw_lines, records, records_in, string
from gossamer.sources import EMBEDDED, absent, find

SNIPPET_CLASSES = ("rotten", "fresh")  # of the embedded data: the second is the good one, as in SST-2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Examples in the order they were read.

    labels: class indices, or numbers (regression), or None; for other tasks a tuple of class indices (tags), of answers
    (text, first character), or the target text.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    labels: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        """How many examples."""
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> "Split":
        """The examples at these places, in this order."""
        pairs, labels = self.pairs, self.labels
        return Split(
            tuple(self.texts[i] for i in indices),
            None if pairs is None else tuple(pairs[i] for i in indices),
            None if labels is None else tuple(labels[i] for i in indices),
        )

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What tells an example from another: (text, pair or "")."""
        return list(zip(self.texts, self.pairs or [""] * len(self), strict=True))


@dataclass(frozen=True)
class Data:
    """Train, dev and test.

    labels: the names of the classes, None where the labels are numbers (regression) or there are none.
    fingerprint: sha256 of all of it but the name, worked out where it is not given.  kind: of the task it was read for,
    None where the labels say it (text-classification or text-regression).
    """

    name: str
    train: Split | None
    dev: Split | None
    test: Split | None
    labels: tuple[str, ...] | None
    fingerprint: str = ""
    kind: str | None = None

    def __post_init__(self) -> None:
        """Take the fingerprint: a tenth of a second for 50 MB of text."""
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self.splits, self.labels, self.kind))

    @property
    def splits(self) -> dict[str, Split]:
        """Those that are there, by name."""
        found = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    def describe(self) -> str:
        """One line: the name, the sizes, the classes with their shares."""
        first = next(iter(self.splits.values()))
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        if self.kind is not None and self.labels is not None:
            what = f"{len(self.labels)} tags"
        elif self.kind is not None:
            what = f"for {self.kind}"
        elif first.labels is None:
            what = "no labels"
        elif self.labels is None:
            what = f"numbers from {min(first.labels):g} to {max(first.labels):g}"
        elif len(self.labels) > 6:
            what = f"{len(self.labels)} classes"
        else:
            shares = [first.labels.count(i) / len(first) for i in range(len(self.labels))]
            what = ", ".join(f"{name} {share:.0%}" for name, share in zip(self.labels, shares, strict=True))
        return f"{self.name}: {sizes} {'pairs' if first.pairs else 'texts'}; {what}"

    def aligned(self, labels: tuple[str, ...] | None) -> "Data":
        """The same data with a model's classes, in the model's order (None: of a model that answers with a number).

        ValueError: a class that the model does not know, by the rules of `gossamer.labels.translation`.
        """
        if labels == self.labels or all(split.labels is None for split in self.splits.values()):
            return self
        if self.kind is not None and self.labels is None:  # spans, texts or numbers: nothing to be renamed
            return self
        if self.labels is None:
            raise ValueError(
                f"{self.name} has numbers for labels, but the model knows the classes {some(labels or ())}"
            )
        to = translation(self.labels, labels, self.name)

        def renamed(label: Any) -> Any:
            return tuple(to[int(i)] for i in label) if isinstance(label, tuple) else to[int(label)]

        turned = {
            name: replace(split, labels=split.labels and tuple(map(renamed, split.labels)))
            for name, split in self.splits.items()
        }
        return Data(self.name, turned.get("train"), turned.get("dev"), turned.get("test"), labels, kind=self.kind)


def read(
    source: str | Path,
    *,
    text: str = "",
    pair: str = "",
    label: str | None = "",
    seed: int = 0,
    need: Sequence[str] = ("train", "test"),
    task: str | None = None,
) -> Data:
    """Read labelled text.

    source: a csv, tsv, jsonl or parquet file, a folder with files called train, dev and test, a hub data set
        ("owner/name" or "owner/name:configuration"), or "rotten-tomatoes", which is embedded.
    text, pair, label: the columns; "": the task's own, which are text, text_pair and label unless `task` says
        otherwise; pairs are optional; label=None reads texts alone.
    task: its kind (gossamer.task.TASKS); None: the labels say whether it is text-classification or text-regression.
        A task has columns of its own (tokens and tags; question, context and answers; text and target), and may read
        formats of its own: .conll, SQuAD's .json, running text in .txt.
    need: the splits that must be there. One file is split 80/10/10: by the seed and the text, not by the order, each
        class alike, equal texts together. A missing dev is a tenth of train; a missing or unlabelled test is the dev,
        and a new dev a tenth of train. A file called test.csv is all test where only a test is needed.

    Labels that are words or whole numbers are classes, sorted; numbers with fractions make a regression.

    Raises FileNotFoundError: no such file; the embedded data or its package is absent. ValueError: an empty file, a
    header without rows, a column that is not there (naming those that are), a ragged row, bad JSON, a value of a wrong
    type, bytes that are not UTF-8, an empty label, one class only, a label in dev or test that train has not, too few
    texts to split; a hub id without `datasets`, parquet without pyarrow.
    """
    assert set(need) <= {"train", "dev", "test"}, need
    kind, text, pair, label = columns_of(task, text, pair, label)
    name, parts = find(source, text, pair, label, tuple(need), kind)
    labels: tuple[str, ...] | None = None
    told: Mapping[str, tuple[Any, ...]] = {}
    if label is not None:
        labels, told = _labels(task, parts, label)
    splits = {part: Split(rows.texts, rows.pairs, told.get(part)) for part, rows in parts.items()}
    for part in set(told) and set(splits) - set(told):
        logger.warning("%s has no labels and is not used", parts[part].name)
        del splits[part]
    if len({split.pairs is None for split in splits.values()}) > 1:
        raise ValueError(f"{name}: '{pair}' is a column of some files and not of others; give it to all, or to none")
    if set(splits) == {"whole"} or (set(splits) == {"train"} and "test" in need):
        splits = _cut(splits.popitem()[1], ("test", "dev"), seed, name, kind)
        name += f" (split 80/10/10 by seed {seed})"
        logger.info("%s: to measure on all of a file, call it test.csv", name)
    if "test" in need and "test" not in splits and "dev" in splits:
        logger.warning("%s has no labelled test: its dev is the test", name)
        splits["test"] = splits.pop("dev")
    if "train" in splits and "dev" not in splits:
        splits |= _cut(splits["train"], ("dev",), seed, name, kind)
    lacking = [split for split in need if split not in splits]
    if lacking:
        raise ValueError(f"{name} has {some(splits)}, expected {some(need)}; add a file called {lacking[0]}.csv")
    data = Data(name, splits.get("train"), splits.get("dev"), splits.get("test"), labels, kind=kind)
    data = data.aligned(SNIPPET_CLASSES) if source == EMBEDDED and label is not None else data
    _remark(data)
    return data


def _labels(
    task: str | None, parts: dict[str, Rows], label: str
) -> tuple[tuple[str, ...] | None, Mapping[str, tuple[Any, ...]]]:
    """The names of the classes, if any, and each split's labels as the kind of task has them."""
    if task in (None, "text-classification"):
        return values(parts, label, classes=task is not None)
    if task == "token-classification":
        return tags(parts, label)
    as_it_is = {
        "question-answering": passages, "seq2seq": targets, "sentence-embedding": numbers, "text-regression": numbers
    }  # fmt: skip
    return None, as_it_is[task](parts, label)


def _cut(split: Split, names: tuple[str, ...], seed: int, name: str, kind: str | None = None) -> dict[str, Split]:
    """Cut a tenth off for each of the names, and the rest as "train".

    A tenth of the different texts of each class, at least one of them where it has more texts than there are names. The
    order is that of a hash of seed and text: it depends on no other row, so shuffling or extending a file moves few
    examples or none. Equal texts stay together, so that none is trained on and measured on. ValueError: too few texts.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(split.keys):
        # questions about one context stay together, too
        groups.setdefault(("", key[1]) if kind == "question-answering" else key, []).append(i)
    strata: dict[int | float, list[tuple[bytes, list[int]]]] = {}
    classes = split.labels if split.labels and isinstance(split.labels[0], int) else (0,) * len(split)
    for key, group in groups.items():
        rank = hashlib.sha256("\0".join((str(seed), *key)).encode()).digest()
        strata.setdefault(min(classes[i] for i in group), []).append((rank, group))
    taken: dict[str, list[int]] = {part: [] for part in (*names, "train")}
    for stratum in strata.values():
        ordered = [group for _, group in sorted(stratum)]
        tenth = max(1, round(len(ordered) / 10)) if len(ordered) > len(names) else 0
        for place, group in enumerate(ordered):
            part = names[place // tenth] if tenth and place < tenth * len(names) else "train"
            taken[part] += group
    if not all(taken.values()):
        raise ValueError(
            f"{name} cannot be split: no label has more than {len(names)} different texts ({len(split):,} examples in "
            "all); add examples, give files called train, dev and test (to measure on all of one file, call it "
            "test.csv), or look whether --label names the right column"
        )
    return {part: split.take(sorted(indices)) for part, indices in taken.items()}


def _fingerprint(splits: dict[str, Split], labels: tuple[str, ...] | None, kind: str | None) -> str:
    """sha256 over names, texts, pairs and labels; lengths go in too, so that no two contents read alike."""
    digest = hashlib.sha256(json.dumps(labels if kind is None else [kind, labels]).encode())
    for name, split in splits.items():
        digest.update(f"{name} {split.labels}".encode())
        for texts in (split.texts, split.pairs):
            digest.update(b"-" if texts is None else " ".join(map(str, map(len, texts))).encode())
            digest.update("".join(texts or ()).encode())
    return digest.hexdigest()


def _remark(data: Data) -> None:
    """Log what was read, how many texts are empty, and how many of dev and test stand in train as well."""
    logger.info("%s", data.describe())
    empty = sum(not text.strip() for split in data.splits.values() for text in split.texts)
    if empty:
        logger.warning("%s: %d texts are empty; they are kept", data.name, empty)
    trained = set(data.train.keys) if data.train else set()
    for name, split in data.splits.items():
        both = 0 if name == "train" else sum(key in trained for key in split.keys)
        if both:
            level = logging.WARNING if both > len(split) / 100 else logging.INFO
            logger.log(level, "%s: %d of %d texts in %s stand in train, too", data.name, both, len(split), name)


class _Asked(NamedTuple):
    """The columns of texts to predict.  named: those that somebody named, which must be there."""

    text: str
    pair: str
    named: tuple[str, ...]
    words: bool


def lines(
    source: str | Path | IO[Any],
    *,
    text: str = "",
    pair: str = "",
    task: str | None = None,
    form: str | None = None,
    words: bool = False,
) -> Iterator[tuple[str, str | None]]:
    """The texts to predict, one by one and in constant memory: (text, its pair or None).

    source: a path, "-" for standard input, or an open stream. A path is read as its name says; anything but csv, tsv,
    jsonl and parquet is plain text: one text a line, empty lines too, so that answers stay in step. A stream is plain
    text unless it begins with a JSON object or a header that has the text column, or a column is named. form ("csv",
    "tsv", "jsonl", "text") overrides. text, pair: the columns; "": the task's own, of which the pair may be absent. One
    that is named must be there. words: a text may be a list of words, too. Raises FileNotFoundError at once;
    ValueError, as `read` does for files, while it is read.
    """
    if form not in (None, "csv", "tsv", "jsonl", "text"):
        raise ValueError(f"form is '{form}', expected csv, tsv, jsonl or text")
    asked = _Asked(*columns_of(task, text, pair, None)[1:3], tuple(filter(None, (text, pair))), words)
    if not isinstance(source, (str, Path)) or source == "-":
        stream: Any = sys.stdin if source == "-" else source
        name = str(getattr(stream, "name", "") or "the input")
        return _lines(getattr(stream, "buffer", stream), name, asked, form)
    path = Path(source).expanduser()
    if not path.exists():
        raise absent(path)
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder, expected a file; name one of its files")
    form = form or form_of(path) or "text"
    if form == "parquet":
        return _texts(records_in(path, asked.text, asked.pair, needed=asked.named), str(path), asked)
    return _lines(raw_lines(path), str(path), asked, form)


def _lines(
    stream: Iterable[bytes | str], name: str, asked: _Asked, form: str | None
) -> Iterator[tuple[str, str | None]]:
    """The texts of a stream; form None: look at its first line. ValueError: it is empty, or has no columns."""
    found = iter(stream)
    first = next(found, None)
    if first is None:
        raise ValueError(f"{name} is empty; expected one text per line")
    whole = chain([first], found)
    form = form or _form_of_line(first, asked)
    if form != "text":
        yield from _texts(records(whole, form, name, asked.text), name, asked)
    elif asked.named:
        raise ValueError(
            f"{name} is read as plain text, a text a line, and has no column '{asked.named[0]}'; leave --text and "
            "--pair away, or give it a name that ends in .csv, .tsv or .jsonl"
        )
    else:
        yield from ((line.removesuffix("\n").removesuffix("\r"), None) for line in decoded(whole, name))


def _texts(found: Iterable[Record], name: str, asked: _Asked) -> Iterator[tuple[str, str | None]]:
    needed = asked.named
    for number, record in found:
        where = f"{name}, line {number}"
        if asked.pair in needed and asked.pair not in record:
            raise no_column(where, asked.pair, record, "pair")
        needed = ()  # later ones may be texts alone
        yield (
            string(record, asked.text, "text", where, asked.words),
            string(record, asked.pair, "pair", where) if asked.pair and asked.pair in record else None,
        )


def _form_of_line(first: bytes | str, asked: _Asked) -> str:
    """The form of a stream by its first line: an object, a header of two cells or more, else plain text.

    Where a column is named, it is an object or a header in any case.
    """
    line = (first.decode("utf-8", "replace") if isinstance(first, bytes) else first).removeprefix("\ufeff").strip()
    if line.startswith("{"):
        try:
            return "jsonl" if asked.named or asked.text in json.loads(line) else "text"
        except (ValueError, RecursionError):
            return "text"
    separated = ((form, line.split(separator)) for form, separator in (("tsv", "\t"), ("csv", ","), ("csv", ";")))
    otherwise = "csv" if asked.named else "text"
    return next((form for form, cells in separated if len(cells) > 1 and asked.text in cells), otherwise)
