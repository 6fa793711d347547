"""Where answers go: a file that outlives a kill, so that a later run goes on where it ends, or a stream."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from gossamer.runtime.manifest import MANIFEST, digest

if TYPE_CHECKING:
    from gossamer.engines.stream import Row

READ = (  # by engines and transformers, of a model's folder
    *("*config.json", "*token*.json", "vocab*", "merges.txt", "*.model"),
    *("*.safetensors", "*.bin", "*.index.json", "*.onnx", "*.onnx_data", "*.onnx.data", "*.py"),
)
CONTINUES = "the same command with --resume continues"

logger = logging.getLogger(__name__)


def origin(folder: Path) -> str:
    """What an artefact is known again by: the sha256 of its manifest, else of all that is READ; "" for neither."""
    if (folder / MANIFEST).is_file():
        return digest(folder / MANIFEST)[:16]
    files = sorted({file for pattern in READ for file in folder.glob(pattern) if file.is_file()})
    if any(file.suffix == ".safetensors" for file in files):  # else weights may be in them
        files = [file for file in files if file.suffix != ".bin"]
    told = "".join(f"{file.name} {digest(file)}\n" for file in files)
    return hashlib.sha256(told.encode()).hexdigest()[:16] if files else ""


def outlet(name: str, *, resume: bool = False, force: bool = False) -> "Part | Passing":
    """Where the answers go that --output names; raises what `Part` and `Passing` raise."""
    place = Path(name)
    if name == "-" or (place.exists() and not place.is_file() and not place.is_dir()):
        return Passing(name, resume=resume)
    return Part(place, resume=resume, force=force)


class Passing:
    """Standard output ("-"), a device or a pipe: there is nothing to lose and nothing to go on from.

    Raises:
        ValueError: it is to be resumed.
    """

    def __init__(self, name: str, resume: bool = False) -> None:
        if resume:
            raise ValueError("--resume needs --output FILE: what went to a stream cannot be continued")
        self.name, self.rows = name, 0
        self.note: dict[str, Any] = {}
        self._stream: TextIO

    @contextmanager
    def opened(self, of: dict[str, Any]) -> Iterator["Passing"]:
        """Ready to `write`."""
        with nullcontext(sys.stdout) if self.name == "-" else open(self.name, "w", encoding="utf-8") as self._stream:
            yield self

    def rest(self, rows: "Iterable[Row]") -> "Iterator[Row]":
        """All of the rows."""
        return iter(rows)

    def write(self, text: str, rows: "Sequence[Row]") -> None:
        """Pass the answers to some rows on, at once."""
        self._stream.write(text)
        self._stream.flush()
        self.rows += len(rows)


class Part:
    """A file of answers that grows beside its place and appears there when it is whole.

    NAME.part holds the answers; NAME.part.json says whose they are, how far they go, and the sha256 of the rows they
    answer.  Both stay when the process dies, and `resume` goes on from there.

    Raises:
        ValueError: `place` is a folder; it exists and `force` does not say to replace it; a part is there, and neither
            is it to be resumed nor forced away; it is to be resumed, and nothing says what it is.
        FileNotFoundError: no folder to write into.
    """

    def __init__(self, place: Path, *, resume: bool = False, force: bool = False) -> None:
        self.place, self.force = place, force
        self.file, self.memo = (place.with_name(place.name + end) for end in (".part", ".part.json"))
        self.note: dict[str, Any] = {}
        self.of: dict[str, Any] = {}
        self.rows, self._bytes, self._seen = 0, 0, hashlib.sha256()
        self._stream: BinaryIO
        if place.is_dir():
            raise ValueError(f"{place} is a folder, expected the name of a file")
        if not place.parent.is_dir():
            raise FileNotFoundError(f"no folder '{place.parent}' to write {place.name} into; make it first")
        self._free()
        self._was = self._noted()
        if self.file.exists() and (resume or not force):
            self.note = self._kept(resume)

    def _free(self) -> None:
        if self.place.exists() and not self.force:
            raise ValueError(f"{self.place} exists; choose another name, or add --force to replace it")

    def _noted(self) -> dict[str, Any]:
        """The note as it stands on the disk, {} where there is none that can be read."""
        try:
            found = json.loads(self.memo.read_text(encoding="utf-8"))
            counted = {key: int(found[key]) for key in ("rows", "bytes")}
            return {"of": dict(found["of"]), "read": str(found["read"]), **counted}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _kept(self, resume: bool) -> dict[str, Any]:
        """The note of the answers that are there, {} where there are none."""
        note, size = self._was, self.file.stat().st_size
        if not note.get("rows", size):  # killed before its first answers, or even before its first note
            return {}
        if not resume:
            raise ValueError(
                f"{self.file} holds {note.get('rows', 'the')} answers of a run that has not ended; add --resume to "
                "continue it, or --force to start anew"
            )
        if not note or size < note["bytes"]:
            raise ValueError(
                f"{self.file} cannot be continued: its note {self.memo.name} is missing or does not fit; type --force "
                "without --resume to start anew"
            )
        return note

    @contextmanager
    def opened(self, of: dict[str, Any]) -> Iterator["Part"]:
        """Ready for `rest` and `write`; whole and in its place at the end, kept for --resume if that is not reached.

        of: what decides the answers: the artefact's digest, options, ...

        Raises:
            ValueError: what is resumed was made of something else, or another process is at it, or was since it was
                looked at.
        """
        was = self.note.get("of", of)
        differ = [f"{key} was {was.get(key)}, now {of.get(key)}" for key in of | was if was.get(key) != of.get(key)]
        if differ:
            raise ValueError(
                f"{self.file} holds answers of another run ({'; '.join(differ)}); type what was typed then, or --force "
                "without --resume to start anew"
            )
        self.of, stream = of, _alone(self.file)
        with stream:
            self._unchanged(stream)
            try:
                self._free()
                self._stream = stream
                self._bytes = self.note.get("bytes", 0)
                if not self.note:
                    self._take_down()
                stream.truncate(self._bytes)  # what the note does not count was not written to its end
                stream.seek(self._bytes)
                yield self
                stream.flush()
                os.fsync(stream.fileno())
                self._free()
                self.file.replace(self.place)
                self.memo.unlink()
            except BaseException as error:
                self._left(error)
                raise

    def _unchanged(self, stream: BinaryIO) -> None:
        """Raise ValueError unless all is as when it was looked at: another process may have gone on since, or ended.

        By now `stream` may be its answers under their final name.
        """
        found = os.fstat(stream.fileno())
        ours = self.file.exists() and os.path.samestat(found, self.file.stat())
        if ours and self._noted() == self._was and found.st_size >= self.note.get("bytes", 0):
            return
        if ours and not found.st_size:
            self.file.unlink()  # made when it was opened
        raise ValueError(f"another process has written {self.file} since this one began; type the same command again")

    def _left(self, error: BaseException) -> None:
        """Nothing where nothing was answered; else say what to type."""
        before = self.note.get("rows", 0)
        if not max(self.rows, before):
            self.file.unlink(missing_ok=True)
            self.memo.unlink(missing_ok=True)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(CONTINUES) from None
        elif self.rows > before:
            logger.warning("%s keeps %s answers; %s", self.file, f"{self.rows:,}", CONTINUES)

    def rest(self, rows: "Iterable[Row]") -> "Iterator[Row]":
        """The rows that are not answered yet.

        Raises:
            ValueError: those that come first are not the ones that were answered.
        """
        rest = iter(rows)
        for row in islice(rest, self.note.get("rows", 0)):
            self._see(row)
        if self.note and (self.rows, self._seen.hexdigest()) != (self.note["rows"], self.note["read"]):
            raise ValueError(
                f"{self.file} holds answers to {self.note['rows']:,} other texts than this input begins with; give the "
                "same --input, or type --force without --resume to start anew"
            )
        return rest

    def write(self, text: str, rows: "Sequence[Row]") -> None:
        """Add the answers to some rows: on disk when this returns, as far as the operating system is concerned."""
        data = text.encode()
        self._stream.write(data)
        self._stream.flush()
        for row in rows:
            self._see(row)
        self._bytes += len(data)
        self._take_down()

    def _see(self, row: "Row") -> None:
        self._seen.update(repr(row).encode())
        self.rows += 1

    def _take_down(self) -> None:
        """Replace the note: a process that is killed leaves the old one or the new one."""
        told = {"of": self.of, "rows": self.rows, "bytes": self._bytes, "read": self._seen.hexdigest()}
        fresh = self.memo.with_name(f"{self.memo.name}.new")
        fresh.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.memo)


def _alone(file: Path) -> BinaryIO:
    """A file to read and write, which no other process has opened so; ValueError: one has."""
    stream = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    with suppress(ImportError, OSError):  # not on this system, or not on this disk
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise ValueError(f"another process writes {file}; wait for its end, or choose another name") from None
    return stream
