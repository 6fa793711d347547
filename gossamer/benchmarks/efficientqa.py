"""EfficientQA: open-domain questions, answered by a system whose every byte counts.

"NeurIPS 2020 EfficientQA Competition: Systems, Analyses and Lessons Learned" (Min et al., PMLR 133, 2021).  A system is
given questions and nothing else; its size is that of all it needs: code, libraries, data and parameters.  There that
was a Docker image without a network, here it is a self-contained folder with an executable submission.sh.

Answers match after SQuAD's normalisation, before which the official script decomposes accents (Unicode NFD): "é" is the
same answer however it is spelled in bytes.  The organisers' last word was a human check of the best systems, which no
script replaces.  Every number of the tables is a share, 0 to 1, and sizes are in gigabytes as published.
"""

import json
import os
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK, S_ISREG

from gossamer.metrics.passages import exact

from .files import field, objects


@dataclass(frozen=True)
class Track:
    """limit: bytes of the system, inclusive.  least: the exact match it must reach; the smallest that does wins."""

    name: str
    limit: int | None = None
    least: float | None = None

    def admits(self, exact_match: float, size: int | None) -> bool:
        """Whether a system is in; size: bytes, None where it was not measured, which only an unlimited track allows."""
        if self.limit is None and self.least is None:
            return True
        return size is not None and size <= (self.limit or size) and exact_match >= (self.least or 0)


# The rules say "6Gb" and "500Mb"; the paper says GiB and MiB, in which `du -h` counts, too.
UNRESTRICTED = Track("unrestricted")
SIX_GIB = Track("6 GiB", limit=6 * 2**30)
MIB_500 = Track("500 MiB", limit=500 * 2**20)
SMALLEST = Track("smallest with 25 %", least=0.25)
TRACKS = (UNRESTRICTED, SIX_GIB, MIB_500, SMALLEST)


@dataclass(frozen=True)
class System:
    """A published baseline.  exact_match: on the original dev set of NQ-open."""

    name: str
    exact_match: float
    gigabytes: float


BASELINES = (
    System("TFIDF-full", 0.320, 20.1), System("TFIDF-subset", 0.310, 2.8), System("DPR-full", 0.410, 66.4),
    System("DPR-subset", 0.348, 5.9), System("T5-small-SSM", 0.258, 0.43), System("T5-XL-SSM", 0.356, 5.6),
    System("T5-XXL-SSM", 0.379, 22.0),
)  # fmt: skip


@dataclass(frozen=True)
class Winner:
    """A track's best: exact match on the test set, and the share that humans found correct."""

    track: Track
    automatic: float
    human: float


WINNERS = (
    Winner(UNRESTRICTED, 0.5400, 0.6580), Winner(SIX_GIB, 0.5333, 0.6518), Winner(MIB_500, 0.3344, 0.3940),
    Winner(SMALLEST, 0.2678, 0.3245),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a system reached.

    exact_match: over all questions, those without a prediction counted as wrong.  size: bytes, None if not measured.
    tracks: the names of those that it is in.
    """

    exact_match: float
    right: int
    questions: int
    missing: int
    size: int | None
    tracks: tuple[str, ...]


def system_size(folder: str | Path) -> int:
    """The bytes of a self-contained folder: of every file, one that has several names (hard links) counted once.

    A symbolic link inside the folder adds nothing to what it points at.
    Raises FileNotFoundError: no such folder.  ValueError: a link that leads out of the folder or nowhere, for then the
    folder is not self-contained; a folder without a file.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one that holds all that the system needs")

    def fail(error: OSError) -> None:  # os.walk would leave out in silence what may not be read
        raise error

    sizes: dict[tuple[int, int], int] = {}
    for place, folders, files in os.walk(root, onerror=fail):
        for path in (Path(place, name) for name in (*folders, *files)):
            found = path.lstat()
            if S_ISLNK(found.st_mode):
                _check_link(path, root)
            elif S_ISREG(found.st_mode):
                sizes[found.st_dev, found.st_ino] = found.st_size
    if not sizes:
        raise ValueError(f"{folder} holds no file; expected a system: code, libraries, data and parameters")
    return sum(sizes.values())


def _check_link(path: Path, root: Path) -> None:
    step = path.parent / os.readlink(path)
    try:
        target = step.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # it leads nowhere, or in a circle
        raise ValueError(
            f"{path} is a link to nothing ({os.readlink(path)}); remove it, or put a file there"
        ) from error
    next_ = target if step.name == ".." else step.parent.resolve() / step.name  # which may be a link that leads back
    if not (next_.is_relative_to(root) and target.is_relative_to(root)):
        raise ValueError(
            f"{path} is a link to {next_}, outside of {root}: the system is not self-contained; put a copy there"
        )


def read_questions(file: str | Path) -> tuple[str, ...]:
    """The questions of a JSON-lines file, {"question": ...} a line; other fields, such as answers, are not looked at.

    Raises ValueError for a line that has none, or is not JSON.
    """
    return tuple(field(record, "question", str, where) for where, record in objects(Path(file)))


def read_references(file: str | Path) -> dict[str, tuple[str, ...]]:
    """What NQ-open's files hold: {"question": ..., "answer": [...]} a line.

    The answers are those of up to five annotators, some of whom gave several, so that a few lists are longer.  Of a
    question that stands in the file twice the later line counts, as in the official script.
    Raises ValueError for a line without a question or without answers.
    """
    found: dict[str, tuple[str, ...]] = {}
    for where, record in objects(Path(file)):
        answers = field(record, "answer", list, where)
        if not answers or not all(isinstance(one, str) for one in answers):
            raise ValueError(f"{where}: 'answer' is {answers}, expected a list of one string or more")
        found[field(record, "question", str, where)] = tuple(answers)
    return found


def read_predictions(file: str | Path) -> dict[str, str]:
    """What a system wrote: {"question": ..., "prediction": ...} a line; of a question given twice the later counts.

    Raises ValueError for a line without one of them.
    """
    return {
        field(record, "question", str, where): field(record, "prediction", str, where)
        for where, record in objects(Path(file))
    }


def answer(system: Callable[[str], str], source: str | Path, target: str | Path) -> int:
    """Ask `system` every question of a file, write its predictions to another, and tell how many there were."""
    questions = read_questions(source)
    with Path(target).open("w", encoding="utf-8", newline="\n") as stream:
        for question in questions:
            stream.write(json.dumps({"question": question, "prediction": system(question)}) + "\n")
    return len(questions)


def score(predictions: Mapping[str, str], references: Mapping[str, tuple[str, ...]], size: int | None = None) -> Result:
    """Exact match, and the tracks that the system is in.

    predictions: question -> answer; a question without one counts as wrong, one that was not asked is left aside, both
    as in the official script.  size: bytes, as `system_size` finds them.
    Raises ValueError: no references, or no prediction for any of them.
    """
    if not references:
        raise ValueError("no references to score against; expected at least one question with its answers")
    missing = sum(question not in predictions for question in references)
    if missing == len(references):
        raise ValueError(
            f"none of the {missing} questions has a prediction; expected them word for word as they were asked, such "
            f"as '{next(iter(references))}'"
        )
    right = sum(
        is_right(predictions[question], answers) for question, answers in references.items() if question in predictions
    )
    reached = right / len(references)
    tracks = tuple(track.name for track in TRACKS if track.admits(reached, size))
    return Result(reached, right, len(references), missing, size, tracks)


def is_right(prediction: str, answers: tuple[str, ...]) -> bool:
    """Whether a prediction is one of the answers, up to accents' spelling, case, punctuation, articles and spaces."""
    return bool(exact(_decomposed(prediction), [_decomposed(one) for one in answers]))


def evaluate(folder: str | Path, references: str | Path) -> Result:
    """Size a system's folder, run its submission.sh on the questions of NQ-open's file, and score what it wrote.

    The system is given the questions alone.  Nothing keeps it from the network or from files outside of its folder, as
    the competition's sandbox did: run it where there is neither, or the size says little.
    Raises FileNotFoundError: no submission.sh.  ValueError: it failed, or wrote nothing that can be read.
    """
    script, golds, size = Path(folder).resolve() / "submission.sh", read_references(references), system_size(folder)
    if not script.is_file():
        raise FileNotFoundError(
            f"{folder} has no submission.sh; expected one that is called with two files, in and out"
        )
    with tempfile.TemporaryDirectory() as place:
        asked, said = Path(place, "questions.jsonl"), Path(place, "predictions.jsonl")
        asked.write_text("".join(json.dumps({"question": one}) + "\n" for one in golds), encoding="utf-8")
        try:
            done = subprocess.run([script, asked, said], cwd=script.parent, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ValueError(
                f"{script} cannot be run ({error}); it needs a line such as #!/bin/sh, and chmod +x"
            ) from error
        if done.returncode or not said.is_file():
            what = f"ended with {done.returncode}" if done.returncode else f"wrote no {said.name}"
            raise ValueError(f"{script} {what}; its last words: {done.stderr.strip()[-500:] or 'none'}")
        return score(read_predictions(said), golds, size)


def rank(track: Track, results: Mapping[str, Result]) -> tuple[str, ...]:
    """The systems that are in a track, by name, the best first.

    The most accurate wins, and of equals the smaller one; where the track asks for an accuracy, the smallest wins.
    """

    def order(name: str) -> tuple[float, ...]:
        one = results[name]
        size = float("inf") if one.size is None else one.size
        return (size, -one.exact_match) if track.least is not None else (-one.exact_match, size)

    return tuple(sorted((n for n, one in results.items() if track.admits(one.exact_match, one.size)), key=order))


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)
