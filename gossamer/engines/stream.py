"""Texts of any number in, answers out, in constant memory: read and tokenized ahead while the engine computes.

`answers` and `windows` are for who has rows and a predictor; `Rows` is a file or a pipe as rows.
"""

import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

if TYPE_CHECKING:
    from gossamer.engines.predictor import Predictor
    from gossamer.task.kind import Read

WINDOW = 32  # batches that are read and sorted by length together: with those waiting, all that memory holds
CHARACTERS = 2_000_000  # after so many a window ends sooner: of long texts, fewer are read together
AHEAD = 2  # windows that wait, ready, for the engine
IDLE = 0.05  # seconds after which a pipe that has fallen silent is answered what it has said so far

Row = tuple[str, str | None]  # a text, and its pair if it has one
Answered = tuple[list[Row], list[dict[str, Any]]]
Group = tuple[list["Read"], list[str], list[str] | None]  # what was read, of these texts and their pairs
Ready = TypeVar("Ready")


def answers(
    rows: Iterable[Row], predictor: "Predictor", batch_size: int = 32, live: bool = False
) -> Generator[dict[str, Any], None, None]:
    """The answer to each row, in order, as `Predictor` tells it.  live: as `windows` has it.

    Raises:
        ValueError: an empty batch; and whatever reading, tokenizing and computing raise, after the answers before it.
    """
    with closing(windows(rows, predictor, batch_size, live=live)) as found:
        for _, said in found:
            yield from said


def windows(
    rows: Iterable[Row], predictor: "Predictor", batch_size: int = 32, *, size: int | None = None, live: bool = False
) -> Generator[Answered, None, None]:
    """Rows, `size` at a time (by default WINDOW batches; fewer where they are long), with their answers.

    A thread reads and tokenizes ahead; it ends when the rows do, when one of them is wrong, or when this is closed.
    Texts alone and pairs may alternate.  live: the rows come from a pipe or a person: those that have come are answered
    as soon as no more follow, and closing this does not wait for a read that nobody ends.  Else every window but the
    last is full, of rows or of CHARACTERS, so that the same rows always share a batch and have the same answers to the
    last digit.

    Raises:
        ValueError: an empty batch; and whatever reading, tokenizing and computing raise, after the answers before it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")

    with closing(ahead(rows, size or WINDOW * batch_size, lambda window: read(predictor, window), live)) as found:
        for window, groups in found:
            yield window, told(predictor, groups, batch_size)


def read(predictor: "Predictor", window: list[Row]) -> list[Group]:
    """The half of a window's work that needs no model; texts alone and pairs are groups of their own."""
    found: list[Group] = []
    for alone, some in groupby(window, key=lambda row: row[1] is None):
        rows = list(some)
        texts, pairs = [text for text, _ in rows], None if alone else [pair or "" for _, pair in rows]
        found.append((predictor.reads(texts, pairs), texts, pairs))
    return found


def told(predictor: "Predictor", groups: list[Group], batch_size: int) -> list[dict[str, Any]]:
    """The other half: the answers, in order."""
    return [
        predictor.task.told(answer)
        for reads, texts, pairs in groups
        for answer in predictor.answers(reads, texts, pairs, batch_size)
    ]


def ahead(
    rows: Iterable[Row], size: int, prepare: Callable[[list[Row]], Ready], live: bool = False
) -> Generator[tuple[list[Row], Ready], None, None]:
    """Windows of rows and what `prepare` makes of each, worked out in a thread while the caller is busy."""
    shelf = _Shelf(rows, size, prepare)
    thread = Thread(target=shelf.fill, name="gossamer-reads", daemon=True)
    thread.start()
    try:
        yield from shelf.taken(live)
    finally:
        shelf.stop()
        if not live:
            thread.join()


class _Shelf(Generic[Ready]):
    """Where one thread puts windows and another takes them.

    pending: rows that make no whole window yet; long: how many characters they have.  While the thread prepares one, it
    reads no rows; so what is pending always comes after what is ready, and whoever finds nothing ready may take it.
    """

    def __init__(self, rows: Iterable[Row], size: int, prepare: Callable[[list[Row]], Ready]) -> None:
        self.rows, self.size, self.prepare = rows, size, prepare
        self.change, self.pending, self.ready = Condition(), list[Row](), deque[tuple[list[Row], Ready]]()
        self.long, self.ended, self.stopped = 0, False, False
        self.error: BaseException | None = None

    def fill(self) -> None:
        """Read and prepare to the end; for the thread."""
        error: BaseException | None = None
        given = iter(self.rows)
        try:
            for row in given:
                with self.change:
                    self.pending.append(row)
                    self.long += len(row[0]) + len(row[1] or "")
                    if len(self.pending) == 1:
                        self.change.notify_all()
                    full = self._all_pending() if len(self.pending) >= self.size or self.long >= CHARACTERS else []
                if full:
                    self._put(full)
                if self.stopped:
                    break
        except BaseException as caught:
            error = caught
        try:
            with self.change:
                rest = self._all_pending()
            if rest:  # what stands before a wrong row is answered
                self._put(rest)
        except BaseException as caught:
            error = caught
        with suppress(Exception):  # the file is closed by the thread that reads it
            getattr(given, "close", lambda: None)()
        with self.change:
            self.ended, self.error = True, error
            self.change.notify_all()

    def taken(self, live: bool) -> Iterator[tuple[list[Row], Ready]]:
        """What was prepared, in order; then the thread's error, if there was one."""
        while True:
            with self.change:
                self.change.wait_for(lambda: self.ready or self.ended or (live and self.pending))
                self.change.wait_for(lambda: self.ready or self.ended, IDLE)
                found, cut = self.ready.popleft() if self.ready else None, list[Row]()
                if found is None and not self.ended:
                    cut = self._all_pending()
                elif found is None:
                    break
                self.change.notify_all()
            if found is not None:
                yield found
            elif cut:
                yield cut, self.prepare(cut)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Let the thread end at the next row it reads."""
        with self.change:
            self.stopped = True
            self.change.notify_all()

    def _all_pending(self) -> list[Row]:
        found, self.pending, self.long = self.pending, [], 0
        return found

    def _put(self, window: list[Row]) -> None:
        with self.change:
            if self.stopped:
                return
        one = window, self.prepare(window)
        with self.change:
            self.change.wait_for(lambda: self.stopped or len(self.ready) < AHEAD)
            self.ready.append(one)
            self.change.notify_all()


class Rows:
    """The rows of a file, or of standard input ("-"), and how far they have been read.

    text, pair: the columns, "" for those of the kind of task.  live: it is a pipe or a terminal, whose end nobody
    knows.

    Raises:
        FileNotFoundError, ValueError: as `gossamer.data.lines` does, at once or while the rows are read.
    """

    def __init__(self, source: str, text: str = "", pair: str = "", task: str | None = None) -> None:
        from gossamer.data import lines
        from gossamer.rows import OPENERS, form_of, raw_lines

        self.live, self.read, self._bytes, self._size, self._total = False, 0, 0, 0, 0
        path = Path(source).expanduser()
        given: Any = source
        form, columns = None, dict[str, Any](text=text, pair=pair, task=task)
        if source != "-":
            lines(source, **columns)  # is it there?
            self.live, form = not path.is_file(), form_of(path) or "text"
            if form == "parquet":
                self._total, form = _rows_of(path), None
            else:
                self._size = 0 if path.suffix.lower() in OPENERS or self.live else path.stat().st_size
                given = _Counted(raw_lines(path), str(path), self)
        elif (stream := _standard_input()) is not None:
            found = os.fstat(stream.fileno())
            self.live, self._size = not stat.S_ISREG(found.st_mode), found.st_size
            given = _Counted(stream, "<stdin>", self)
        self._rows = lines(given, **columns, form=form, words=True)

    def __iter__(self) -> Iterator[Row]:
        """Row by row, once."""
        for row in self._rows:
            self.read += 1
            yield row

    def share(self, answered: int) -> float | None:
        """What part of the input so many rows are, by the bytes that a row has taken so far; None: nobody knows."""
        if self._total:
            return answered / self._total
        if not (self._size and self._bytes and self.read):
            return None
        return min(1.0, answered * self._bytes / (self.read * self._size))


class _Counted:
    """Lines whose bytes are counted on their way; name: what errors call them."""

    def __init__(self, lines: Iterable[bytes], name: str, into: Rows) -> None:
        self.lines, self.name, self.into = lines, name, into

    def __iter__(self) -> Iterator[bytes]:
        for line in self.lines:
            self.into._bytes += len(line)
            yield line


def _standard_input() -> BinaryIO | None:
    """Standard input by its number: a thread may wait in it when the process ends, which sys.stdin does not forgive."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError):  # replaced by something else
        return None


def _rows_of(path: Path) -> int:
    """The rows of a parquet file; 0 where it cannot be read, which is told when it is."""
    with suppress(Exception):
        from pyarrow.parquet import ParquetFile

        return int(ParquetFile(path).metadata.num_rows)
    return 0
