"""Rows of text as they stand in files and streams: csv, tsv, jsonl, parquet.

Everything here is a generator over lines: a stream of any length is read in constant memory. What is wrong is said with
the file, the line and the way out. `gossamer.sources` finds the files, `gossamer.data` makes splits of their rows.
"""

import bz2
import csv
import gzip
import importlib
import json
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

Record = tuple[int, dict[str, Any]]  # the line it begins on (parquet: the row), and its fields by column

FORMS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
READABLE = ".csv, .tsv, .jsonl or .parquet (the first three also as .gz or .bz2)"
EXAMPLE = '{"text": "...", "label": "..."}'
OPEN = "a quote opened here is never closed"
KINDS = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a string"}


def form_of(path: Path) -> str | None:
    """'csv', 'tsv', 'jsonl', 'parquet', or None: what the name says ('a.csv.gz' is csv)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in OPENERS
    form = FORMS.get(suffixes[-1 - packed]) if len(suffixes) > packed else None
    return None if packed and form == "parquet" else form  # parquet packs its own columns


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked when its name ends in .gz or .bz2. ValueError: a damaged archive."""
    opener = OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rb") as stream:
        try:
            yield from stream
        except (EOFError, OSError, zlib.error) as error:
            if opener is open:
                raise
            raise ValueError(f"{path} is not a whole {path.suffix} archive ({error}); pack it again") from error


def decoded(lines: Iterable[bytes | str], name: str) -> Iterator[str]:
    """Lines as text, a byte order mark dropped. ValueError: bytes that are not UTF-8, by line and byte."""
    for number, line in enumerate(lines, 1):
        if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{name} is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8 {name} > new")
        try:
            text = line if isinstance(line, str) else line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: byte {error.start + 1} of the line (0x{error.object[error.start]:02x}) is not "
                f"UTF-8; if the file is Latin-1, convert it: iconv -f latin1 -t utf-8 {name} > new"
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text


def no_column(where: str, column: str, found: Iterable[str], role: str, hint: str = "") -> ValueError:
    """The error for a column that is not there; role is the option that names it: text, pair or label."""
    columns = list(found)
    shown = ", ".join(repr(c[:40]) for c in columns[:12]) + (", ..." if len(columns) > 12 else "")
    way = f"name the right one with --{role} (in Python {role}=)"
    return ValueError(f"{where} has no column '{column}'; it has: {shown or 'none'}; {way}{hint}")


def _row(reader: Any, name: str, number: int) -> list[str] | None:
    """The next row of a csv reader, None at the end. ValueError: quotes that are not csv's, by the line."""
    limit = csv.field_size_limit(2**31 - 1)  # the module's own is 131,072 characters; a text may be longer
    try:
        return next(reader, None)
    except csv.Error as error:
        why = OPEN if "unexpected end" in str(error) else str(error).split(" - ")[0]
        way = 'write a text that has quotes as "...", each " inside it as ""'
        raise ValueError(f"{name}, line {number}: {why}; {way}") from error
    finally:
        csv.field_size_limit(limit)


def _comma_rows(lines: Iterator[str], name: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file: (line, cells). Quotes are strict, so an open one cannot swallow the rest in silence."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    start = 1
    while (cells := _row(reader, name, start)) is not None:
        yield start, cells
        start = reader.line_num + 1


def _tab_rows(lines: Iterator[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a tsv file, which some write with csv's quotes and some (GLUE) without: (line, cells).

    Quotes are csv's where they close on their line. Else, where this line and the next one have as many tabs as the
    header, both are rows and the quotes plain characters: a stray one cannot swallow the lines below it. Any other line
    with an open quote goes on below. So a text with a tab and a line break can be misread; it belongs in csv or jsonl.
    """
    width, number, ahead = 0, 0, deque[str]()  # ahead: lines that were looked at

    def coming() -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            yield line

    def next_is_row() -> bool:
        while not (ahead and ahead[-1].strip()):
            line = next(lines, None)
            if line is None:
                return True
            ahead.append(line)
        return ahead[-1].count("\t") == width - 1

    stream = coming()
    for line in stream:
        number += 1
        start, body = number, line.rstrip("\r\n")
        cells = body.split("\t") if body else []
        if '"' in body:
            quoted, is_open = _quoted(line, name)
            if not is_open:
                cells = quoted if quoted and len(quoted) == (width or len(quoted)) else cells
            elif width == 1 or len(cells) != width or not next_is_row():
                reader = csv.reader(chain([line], stream), delimiter="\t", strict=True)
                cells = _row(reader, name, number) or cells
                number += reader.line_num - 1
        width = width or len(cells)
        yield start, cells


def _quoted(line: str, name: str) -> tuple[list[str] | None, bool]:
    """The cells of a line by csv's rules, None where it breaks them; and whether a quote stays open at its end."""
    try:
        return _row(csv.reader([line], delimiter="\t", strict=True), name, 1), False
    except ValueError as error:
        return None, OPEN in str(error)


def _separated(lines: Iterator[str], name: str, text: str, usual: str) -> Iterator[Record]:
    """The records of a csv or tsv file. The separator is the one under which its header has the text column.

    Raises ValueError: no line, no header, no rows, no such column, a column twice, a row longer or shorter than the
    header.
    """
    above: list[str] = []  # up to the header line; all but it are blank
    for line in lines:
        above.append(line)
        if line.strip():
            break
    else:
        raise ValueError(f"{name} is empty; expected a header line and rows below it")
    trials = dict.fromkeys((usual, ",", "\t", ";"))
    found = (s for s in trials if text in (_row(csv.reader([line], delimiter=s), name, len(above)) or ()))
    separator = next(found, usual)
    whole = chain(above, lines)
    rows = _tab_rows(whole, name) if separator == "\t" else _comma_rows(whole, name, separator)
    header = next(cells for number, cells in rows if number >= len(above))
    shown = {"\t": "<TAB>"}.get(separator, separator)
    if text not in header:
        hint = f"; if its first line is data already, put a header line above it, such as text{shown}label"
        raise no_column(name, text, header, "text", hint)
    twice = [column for column in header if column and header.count(column) > 1]
    if twice:
        raise ValueError(f"{name}, line 1: two columns are called '{twice[0]}', expected each once; rename one")
    some = False
    for number, cells in rows:
        if len(cells) == len(header):
            some = True
            yield number, dict(zip(header, cells, strict=True))
        elif cells:  # a blank line is no row
            raise ValueError(
                f"{name}, line {number}: {len(cells)} fields, expected {len(header)} as in the header; "
                f'put a text that contains {shown} into quotes: "..."'
            )
    if not some:
        raise ValueError(f"{name} has a header and no rows; expected one example per line below it")


def _objects(lines: Iterator[str], name: str) -> Iterator[Record]:
    """The records of a jsonl file. ValueError: a line that is no JSON, or no object; no line at all."""
    some = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{name}, line {number}: not JSON ({error}); expected one object per line, such as {EXAMPLE}"
            ) from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{name}, line {number}: {glimpse(record)}, expected an object per line, such as {EXAMPLE}"
            )
        some = True
        yield number, record
    if not some:
        raise ValueError(f"{name} is empty; expected one object per line, such as {EXAMPLE}")


def _parquet(path: Path, columns: tuple[str | None, ...], needed: Collection[str]) -> Iterator[Record]:
    """The records of a parquet file, batch by batch. ValueError: pyarrow is absent, no parquet, no such column."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(f'{path} needs pyarrow to be read: pip install "gossamer[parquet]"') from error
    try:
        file = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise ValueError(f"{path} is empty or no parquet file ({error}); write it again") from error
    with file:
        names = file.schema_arrow.names
        for column, role in zip(columns, ("text", "pair"), strict=False):
            if column not in names and (role == "text" or column in needed):
                raise no_column(str(path), str(column), names, role)
        if not file.metadata.num_rows:
            raise ValueError(f"{path} has columns and no rows; expected one example per row")
        batches = file.iter_batches(batch_size=1024, columns=[c for c in columns if c in names])
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)


def records(lines: Iterable[bytes | str], form: str, name: str, text: str) -> Iterator[Record]:
    """The records of a stream in the form 'csv', 'tsv' or 'jsonl'; text: the column its header must have."""
    stream = decoded(lines, name)
    return _objects(stream, name) if form == "jsonl" else _separated(stream, name, text, "\t" if form == "tsv" else ",")


def records_in(
    path: Path, *columns: str | None, form: str | None = None, needed: Collection[str] = ()
) -> Iterator[Record]:
    """The records of a file, read as its name (or form) says.

    columns: those wanted, the text first, which must be there; then the pair.  needed: others that parquet must have.
    """
    form = form or form_of(path)
    if form is None:
        raise ValueError(f"'{path}' ends in '{path.suffix}', expected {READABLE}; convert it, or rename it")
    if form == "parquet":
        return _parquet(path, columns, needed)
    return records(raw_lines(path), form, str(path), str(columns[0]))


def glimpse(value: object) -> str:
    """What a value is, in words, with its beginning."""
    return "nothing (null)" if value is None else f"{KINDS.get(type(value), type(value).__name__)} ({str(value)[:30]})"


def string(record: dict[str, Any], column: str, role: str, where: str, words: bool = False) -> str:
    """One text of a record; words: it may be a list of words, too, which spaces then part.

    ValueError: no such column, no string, or half of a surrogate pair in it; a word that is empty or has a space.
    """
    if column not in record:
        raise no_column(where, column, record, role)
    value = record[column]
    if words and isinstance(value, list):
        wrong = [one for one in value if not isinstance(one, str) or len(one.split()) != 1]
        if wrong:
            raise ValueError(f"{where}: '{column}' has the word {wrong[0]!r}, expected words without spaces")
        value = " ".join(one.strip() for one in value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: '{column}' is {glimpse(value)}, expected a string in quotes")
    if half := halved(value):
        raise ValueError(f"{where}: '{column}' holds {half}; mend or drop the line")
    return value


def halved(text: str) -> str:
    """What in a text is no character and cannot be written, in words; "" where nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text[error.start]!r}, half of a surrogate pair and no character"
    return ""


@dataclass(frozen=True)
class Rows:
    """The columns that matter, of one file; labels as written: str, int, float, bool or None."""

    name: str
    columns: tuple[str, ...]  # all those found
    places: tuple[int, ...]  # the line of each example, for errors
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[Any, ...] | None


def gather(found: Iterable[Record], name: str, text: str, pair: str, label: str | None, words: bool = False) -> Rows:
    """Records as columns. The first record says whether there are pairs and labels; words: texts may be lists of words.

    Raises ValueError: a text or pair that is missing or no string; pairs or labels in some records only.
    """
    places, texts, pairs, labels = list[int](), list[str](), list[str](), list[Any]()
    columns: tuple[str, ...] = ()
    for number, record in found:
        where = f"{name}, line {number}"
        columns = columns or tuple(record)
        texts.append(string(record, text, "text", where, words))
        for role, column in (("pair", pair or None), ("label", label)):
            if (column in record) != (column in columns):
                odd, even = (number, places[0]) if column in record else (places[0], number)
                raise ValueError(f"{name}: line {odd} has '{column}', line {even} has not; give each line a {role}")
        if pair and pair in record:
            pairs.append(string(record, pair, "pair", where))
        if label in record:
            labels.append(record[label])
        places.append(number)
    return Rows(name, columns, tuple(places), tuple(texts), tuple(pairs) or None, tuple(labels) or None)
