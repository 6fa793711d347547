"""The official files of a benchmark, and the files its leaderboard takes.

Tables are read as GLUE's are written: one row a line, cells between tabs, quotes as plain characters, so that a stray
quote cannot swallow the rows below it, and only a line feed ends a row.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.rows import decoded, glimpse, raw_lines


@dataclass(frozen=True)
class Table:
    """The rows of a file that have as many cells as its header, and the lines of those that have fewer."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]  # (line, cells)
    torn: tuple[int, ...]

    def column(self, name: str) -> int:
        """The place of a column. ValueError: the file has none of that name."""
        if name not in self.header:
            raise ValueError(f"{self.path} has no column '{name}'; it has: {', '.join(map(repr, self.header))}")
        return self.header.index(name)

    def cells(self, name: str) -> list[str]:
        """A column from top to bottom. ValueError: the file has none of that name."""
        place = self.column(name)
        return [cells[place] for _, cells in self.rows]


def found(folder: str | Path, places: Sequence[str], what: str) -> Path:
    """The first of the places that is a file under the folder.

    Raises FileNotFoundError that names the folder and all places, or says that there is no such folder.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder '{root}'; expected the one that {what} was unpacked into")
    for place in places:
        if (root / place).is_file():
            return root / place
    raise FileNotFoundError(f"'{root}' has no {what}; expected {' or '.join(places)} in it")


def table(path: Path, header: tuple[str, ...] = ()) -> Table:
    """Read a table; header: the columns of a file that does not name them itself.

    Raises ValueError: no rows, a row of more cells than the header has, bytes that are not UTF-8.
    """
    rows, torn = list[tuple[int, tuple[str, ...]]](), list[int]()
    for number, line in enumerate(decoded(raw_lines(path), str(path)), 1):
        cells = tuple(line.rstrip("\r\n").split("\t"))
        if not header:
            header = cells
        elif len(cells) > len(header):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells, expected {len(header)}: {', '.join(map(repr, header))}"
            )
        elif len(cells) == len(header):
            rows.append((number, cells))
        elif cells != ("",):  # a blank line is no row
            torn.append(number)
    if not rows:
        raise ValueError(f"{path} has no rows; expected one example per line")
    return Table(path, header, tuple(rows), tuple(torn))


def document(path: str | Path) -> Any:
    """The contents of a JSON file. FileNotFoundError: there is none. ValueError: not JSON, not UTF-8."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise FileNotFoundError(f"no file '{place}'; expected a JSON file")
    text = "".join(decoded(raw_lines(place), str(place)))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON ({error})") from error


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a jsonl file, each with where it stands ("FILE, line N").

    Raises ValueError: a line that is no JSON object, no line at all, bytes that are not UTF-8.
    """
    number = 0
    for number, line in enumerate(decoded(raw_lines(path), str(path)), 1):
        where = f"{path}, line {number}"
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error}); expected one object per line") from error
            if not isinstance(value, dict):
                raise ValueError(f"{where}: {glimpse(value)}, expected one object per line")
            yield where, value
    if not number:
        raise ValueError(f"{path} is empty; expected one object per line")


def field(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """An entry of a JSON object that must be there and be of this kind. ValueError otherwise.

    A truth value is no number here, although Python takes it for one.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {glimpse(record)}, expected an object that has '{key}'")
    if key not in record:
        raise ValueError(f"{where} has no '{key}'; it has: {', '.join(map(repr, record)) or 'nothing'}")
    value, kinds = record[key], kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{where}: '{key}' is {glimpse(value)}, expected {' or '.join(k.__name__ for k in kinds)}")
    return value


def free(paths: Sequence[Path], replace: bool) -> None:
    """Make sure that all may be written. ValueError: one exists, and `replace` does not allow to write over it."""
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected a file or nothing there")
        if path.exists() and not replace:
            raise ValueError(f"{path} exists; choose another folder, or pass replace=True to write over it")


def write(path: str | Path, text: str, replace: bool = False) -> Path:
    """Write a text that appears complete or not at all; the folder is made where it is missing.

    Raises ValueError: the file exists, and `replace` does not allow to write over it.
    """
    place = Path(path).expanduser()
    free([place], replace)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with part.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        free([place], replace)  # someone else's, made meanwhile
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return place


def complete(names: Sequence[str], given: Iterable[str]) -> None:
    """Raise ValueError unless a submission has all its tasks, and no others."""
    told = list(given)
    lacking, strange = [name for name in names if name not in told], [name for name in told if name not in names]
    if lacking or strange:
        raise ValueError(
            f"a submission has {', '.join(names)}; missing: {', '.join(lacking) or 'none'}; unknown: "
            f"{', '.join(strange) or 'none'} (`submission` gives the text of one file)"
        )


def write_all(texts: dict[Path, str], replace: bool = False) -> list[Path]:
    """Write several files, none of them before all are known to be free. ValueError as `write` says."""
    free([path.expanduser() for path in texts], replace)
    return [write(path, text, replace) for path, text in texts.items()]


def classes(task: str, labels: tuple[str, ...], found: Any, where: Callable[[int], str] | None = None) -> list[int]:
    """Class indices of a column that holds indices or names. ValueError: one that is neither.

    where: says of an example's number where it stands; "prediction N" unless told.
    """
    place = {name: i for i, name in enumerate(labels)}
    out = []
    for number, one in enumerate(found.tolist() if hasattr(found, "tolist") else list(found)):
        plain = one.item() if hasattr(one, "item") else one  # of a list of numpy's numbers
        index = place.get(plain) if isinstance(plain, str) else plain
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if not isinstance(index, int) or not 0 <= index < len(labels):
            here = where(number) if where else f"{task}, prediction {number + 1}"
            raise ValueError(
                f"{here}: {plain!r}, expected {', '.join(map(repr, labels))} or their number, 0 to {len(labels) - 1}"
            )
        out.append(int(index))
    return out
