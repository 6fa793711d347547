"""How a command speaks: failures in one line and an exit code, notes on stderr, files that appear whole, a bar.

Exit codes: 0 done; 1 the user's mistake; 2 a wrong command line; 3 a check of ours failed; 130 Ctrl-C.  `check` ends
with 1 for a promise that is broken, and with 2 for the user's mistake as well.
"""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import typer
from rich.console import Console
from typer.core import TyperCommand

from gossamer.environment import EXTRAS, install
from gossamer.finite import broken, dumps

log = logging.getLogger(__name__)
KNOWN, LONG = 2.0, 20.0  # seconds: when a pace can be told, and what of waiting is worth a line
OURS = "this is a mistake in gossamer; please report it with what --debug prints"


class Spoken(TyperCommand):
    """A command that ends in one line on stderr and an exit code, whatever happens; `--debug` adds the traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `--debug` anywhere on the line."""
        ctx.meta["debug"] = "--debug" in args or bool(ctx.find_root().params.get("debug"))
        return super().parse_args(ctx, [arg for arg in args if arg != "--debug"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; tell a failure as `told` has it."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()  # here, where a closed pipe can still be told from a failure
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # `| head` has seen enough; what is still buffered must not complain at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta["debug"]:
                traceback.print_exc()
            code, line = told(error, ctx.info_name)
            if ctx.info_name == "check" and code == 1:  # there, 1 says that a promise is broken
                code = 2
            print(line, file=sys.stderr)
            raise typer.Exit(code) from None


def told(error: BaseException, command: str = "") -> tuple[int, str]:
    """The exit code of an exception, and the line that tells it."""
    words = " ".join(str(error).split()) or type(error).__name__
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if isinstance(error, KeyboardInterrupt):
        known = {"compress": "the same command with --resume continues", "predict": "no file was written"}
        after = str(error) or known.get(command, "")  # a file that can be continued says so itself
        return 130, f"interrupted; {after}" if after else "interrupted"
    if package in EXTRAS:
        return 1, f"error: found no {package}, which this needs; type {install(package)}"
    if isinstance(error, OSError) and error.strerror:  # Python's own, not a sentence of ours
        return 1, f"error: {error.strerror.lower()}{f': {error.filename}' if error.filename else ''}"
    if isinstance(error, MemoryError):
        return 1, "error: out of memory; a smaller batch or model needs less"
    if isinstance(error, (ValueError, OSError)) or (isinstance(error, ImportError) and not error.name):
        return 1, f"error: {words}"
    if isinstance(error, AssertionError):
        return 3, f"error: a check failed: {words}; {OURS}"
    return 3, f"error: {type(error).__name__}: {words}; {OURS}"


class Notes(logging.Handler):
    """What the package logs, as plain lines on stderr: the present one, which a bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print(record.getMessage(), file=sys.stderr)


def quiet() -> None:
    """Set up a process that is the `gossamer` command: no news to any server, no bars where nobody looks."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    ours = logging.getLogger("gossamer")
    ours.addHandler(Notes())
    ours.setLevel(logging.INFO)


def free(out: Path, resume: bool) -> None:
    """Raise ValueError unless `out` can become an artefact: absent, an empty folder, or to be resumed."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file, expected a folder; choose another name")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty; choose another folder, or add --resume to continue its run")


@contextmanager
def writing(name: str, force: bool = False) -> Iterator[TextIO]:
    """A stream to the file `name`, which appears complete or not at all; `-` is stdout.

    Raises ValueError for a folder, and for a file that exists unless `force` says to replace it.
    """
    place = Path(name)
    if name == "-":
        yield sys.stdout
    elif place.is_dir():
        raise ValueError(f"{place} is a folder, expected the name of a file")
    elif place.exists() and not place.is_file():  # a device or a pipe: nothing to lose, nothing to rename
        with place.open("w", encoding="utf-8") as stream:
            yield stream
    else:
        taken = ValueError(f"{place} exists; choose another name, or add --force to replace it")
        if place.exists() and not force:
            raise taken
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with part.open("x", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            if place.exists() and not force:  # someone else's, made meanwhile
                raise taken
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)


class Tell(Protocol):
    """A bar: what is being done, the share done (None: nobody knows), and what else there is to say of it."""

    def __call__(self, what: str, share: float | None, more: str = "") -> None:
        """Show it."""


@contextmanager
def progress(watched: bool = True) -> Iterator[Tell | None]:
    """A bar with an estimate, to be called as `Tell` says; None where nobody watches."""
    if not (watched and sys.stderr.isatty()):
        yield None
        return
    from rich.progress import Progress, TextColumn

    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[more]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as bars:

        def tell(what: str, share: float | None, more: str = "") -> None:
            if not bars.tasks or bars.tasks[-1].description != what:  # the pace of one step says nothing about the next
                for old in bars.task_ids:
                    bars.remove_task(old)
                bars.add_task(what, total=None if share is None else 1.0, more=more)
            bars.update(bars.task_ids[-1], total=None if share is None else 1.0, completed=share or 0.0, more=more)

        yield tell


class Pace:
    """What a bar tells of texts that are answered, and once, where it takes long, a line that says how long.

    what: is being done.  share: what part of it was done before.  clock: seconds.
    """

    def __init__(
        self, what: str, bar: Tell | None, share: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.bar, self.first, self.clock = what, bar, share or 0.0, clock
        self.began, self.said = clock(), False

    def tell(self, texts: int, share: float | None) -> None:
        """texts: how many were answered by now; share: what part of all that is, None where nobody knows."""
        if self.bar is None:
            return
        took = max(self.clock() - self.began, 1e-9)
        self.bar("texts", share, f"{texts:,} answered, {texts / took:,.0f} a second")
        if self.said or took < KNOWN or share is None or share <= self.first:
            return
        self.said = True
        left = took * (1 - share) / (share - self.first)
        if left > LONG:
            words = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 7200 else f"{left / 3600:.1f} h"
            print(f"{self.what}: about {words} more, at {texts / took:,.0f} texts a second", file=sys.stderr)


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """Print `value` as indented JSON, paths and the like as strings; what is no finite number as null, and say so."""
    for place in broken(value)[:5]:
        log.warning("written as null, since it is no finite number: %s", place or "the answer")
    print(dumps(value, indent=2, ensure_ascii=False, default=str), file=stream or sys.stdout)
