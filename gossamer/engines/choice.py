"""Which engine runs an artefact fastest on this machine: measured once, remembered, and shown as a table.

The answer is kept in the user's cache for this processor, the number of threads, the engines' versions, and the
artefact; where that cannot be written, it is measured again.  Imports neither torch nor transformers.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.engines.remembered import key_of, recall, remember
from gossamer.environment import dated, halves, install, installed

if TYPE_CHECKING:
    from gossamer.engines.predictor import Predictor
    from gossamer.engines.race import Race, Sample

BY_GRAPHS = ("openvino", "onnxruntime")
BATCH = 32  # texts in a batch, where nobody says how many
SECONDS = 8.0  # of comparing for a table, in which the 99th percentile says something

Tell = Callable[[str, float], object]  # what is going on, and which share of it is done
Start = Callable[[Path, str, str, str | None, int], tuple[float, int]]  # see gossamer.measure.cold.once

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What one engine does with an artefact in one precision.

    per_second: texts a second, the median, by batch size.  p50_ms, p99_ms: of a text that is asked alone.  packs: does
    it lay texts end to end where that saves tokens?  start_s: from nothing to the first answer of a fresh process, in
    the saved precision.  why: it cannot run, and what to type; then the figures are missing.  chosen: "auto" takes it.
    """

    engine: str
    precision: str = "saved"
    per_second: Mapping[int, float] = field(default_factory=dict)
    p50_ms: float | None = None
    p99_ms: float | None = None
    packs: bool | None = None
    start_s: float | None = None
    why: str = ""
    chosen: bool = False

    @property
    def name(self) -> str:
        """The engine, and the precision unless it is as saved."""
        return self.engine if self.precision == "saved" else f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Table:
    """What was measured of all engines.  texts: on which, in words.  remembered: at another time."""

    rows: list[Row]
    texts: str
    remembered: bool = False

    @property
    def chosen(self) -> str:
        """The engine that "auto" takes, "" where none can run the artefact."""
        return next((row.engine for row in self.rows if row.chosen), "")

    def plain(self) -> dict[str, Any]:
        """As json has it."""
        return {"chosen": self.chosen, **asdict(self)}

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """As people read it: titles, and a row of words for each engine."""
        sizes = sorted({size for row in self.rows for size in row.per_second})
        titles = ["engine", *(f"texts/s at {size}" for size in sizes), "p50 ms", "p99 ms", "packs", "start s", ""]

        def cells(row: Row) -> list[str]:
            figures = [*(row.per_second.get(size) for size in sizes), row.p50_ms, row.p99_ms]
            packs = "-" if row.packs is None else "yes" if row.packs else "no"
            start = "-" if row.start_s is None else f"{row.start_s:.2f}"
            return [row.name, *map(_short, figures), packs, start, "what auto takes" if row.chosen else row.why]

        return titles, [cells(row) for row in self.rows]


def fastest(
    folder: Path, threads: int | None = None, lengths: Sequence[int] | None = None, batch_size: int | None = None
) -> str:
    """The engine that "auto" stands for: of those that are installed and run the artefact's graphs, the fastest.

    lengths: of the texts to expect, in tokens; None for those of sentences, or what `table` was last shown.
    batch_size: None for one text alone and batches of 32 alike.  Takes about two seconds the first time; the log says
    what was measured (INFO).  Where there is no choice nothing is measured.

    Raises:
        ImportError: no engine is installed that could run it.
        ValueError: the folder is damaged, or no engine can run its graphs.
    """
    names = candidates(folder)
    if len(names) == 1:
        return names[0]
    key, sizes = key_of(BY_GRAPHS, threads, lengths, batch_size), _sizes(batch_size)
    known = recall(folder).get(key, {}).get("engine")
    if known in names:
        return str(known)
    from gossamer.engines.race import made_up, race

    predictors, failed = _opened(folder, [Row(name) for name in names], threads)
    sample = made_up(next(iter(predictors.values())), max(sizes), lengths)
    found = race(predictors, sample, sizes)
    chosen, failed = found.winner(sizes), failed | found.failed
    if not chosen:
        raise _none(folder, failed)
    remember(folder, {key: {"engine": chosen}})
    logger.info("%s", _sentence(folder, found, chosen, sizes, sample, failed))
    return chosen


def expected(folder: Path, file: str, batch_size: int, text: str = "", pair: str = "") -> dict[str, Any]:
    """What `gossamer.load` is to be told of the texts of a file that are to be answered all, for "auto" to go by.

    {} where there is no choice, or where it is no file: a pipe may say one text at a time or many at once.
    text, pair: columns; "": those of the artefact's task.
    """
    if not Path(file).expanduser().is_file() or len(candidates(folder)) < 2:
        return {}
    from gossamer.engines.race import lengths

    return {"batch_size": batch_size, "lengths": lengths(folder, file, batch_size, text, pair)}


def candidates(folder: Path) -> list[str]:
    """The engines that "auto" chooses among.

    Raises:
        ImportError: the artefact has graphs, and nothing is installed that could run them.
    """
    from gossamer.engines import lacks
    from gossamer.engines.graphs import carried

    if not carried(folder):
        return ["torch"]
    found = [name for name in BY_GRAPHS if not lacks(name) and not dated(name, installed(name))]
    if found or not lacks("torch"):
        return found or ["torch"]
    raise ImportError(f"no engine is installed, expected openvino or onnxruntime; type: {install('onnxruntime')}")


def table(
    folder: Path,
    texts: Sequence[str] | None = None,
    pairs: Sequence[str] | None = None,
    *,
    origin: str = "the texts",
    batch_size: int | None = None,
    threads: int | None = None,
    again: bool = False,
    seconds: float = SECONDS,
    start: Start | None = None,
    tell: Tell = lambda what, share: None,
) -> Table:
    """Every engine on this artefact, torch among them; the fastest by its graphs is what "auto" takes from then on.

    texts, pairs: the user's, from `origin`; None for made-up ones, or for what was measured the last time unless
    `again` is set.  batch_size: what the choice goes by; None for one text alone and batches of 32 alike.  seconds: of
    the comparison itself.  start: how long an engine takes from nothing is asked of it, where it is given.

    Raises:
        ValueError: the folder is damaged, no engine can run it, or there are no texts.
    """
    sizes, auto = _sizes(batch_size), key_of(BY_GRAPHS, threads)
    key = key_of((*BY_GRAPHS, "torch", "transformers"), threads, None, batch_size)
    if texts is None and not again and (known := _table_of(recall(folder).get(key, {}))) is not None:
        remember(folder, {auto: {"engine": known.chosen}})  # what was shown last counts
        return known
    from gossamer.engines.race import Limits, made_up, race, shown

    rows = _rows(folder)
    predictors, failed = _opened(folder, [row for row in rows if not row.why], threads, tell)
    some, timed = next(iter(predictors.values())), sorted({1, *sizes})
    sample = made_up(some, max(sizes)) if texts is None else shown(some, max(sizes), texts, pairs, origin)
    limits = Limits(seconds, rounds=40, margin=inf)
    found = race(predictors, sample, timed, limits, tell=lambda share: tell("comparing the engines", share))
    failed |= found.failed
    among = _among(folder)
    chosen = found.winner(sizes, among)
    done: list[Row] = []
    for i, row in enumerate(rows):
        tell("starting each in a fresh process", i / len(rows))
        if row.name in found.laps:
            begun = _start(folder, row, sample, threads, start)
            row = replace(_timed(row, found, predictors[row.name]), start_s=begun, chosen=row.name == chosen)
        done.append(row if row.why else replace(row, why=failed.get(row.name, "")))
    if chosen:
        winners = {size: found.winner([size], among) for size in timed} | {batch_size: chosen}
        answers = {key_of(BY_GRAPHS, threads, sample.lengths, size): {"engine": one} for size, one in winners.items()}
        whole = {"texts": str(sample), "rows": [asdict(row) for row in done]}
        remember(folder, answers | {auto: {"engine": chosen}, key: whole})
    return Table(done, str(sample))


def _rows(folder: Path) -> list[Row]:
    """What could run an artefact, in which precisions; and of the rest, why not."""
    from gossamer.engines import ENGINES, lacks
    from gossamer.engines.graphs import GRAPH, carried

    found = []
    for engine in ENGINES:
        why = lacks(engine)
        if engine in BY_GRAPHS and not carried(folder):
            why = f"the artefact carries no graph ({GRAPH})"
        found.append(Row(engine, why=why))
        if halves() and not why and engine != "onnxruntime":
            found.append(Row(engine, "bf16"))
    return found


def _among(folder: Path) -> list[str]:
    try:
        return candidates(folder)
    except ImportError:
        return []


def _opened(
    folder: Path, rows: Sequence[Row], threads: int | None, tell: Tell = lambda what, share: None
) -> tuple[dict[str, "Predictor"], dict[str, str]]:
    """Predictors by the names of their rows, and why the others have none.

    Raises what the first raised where none could be opened.
    """
    from gossamer.engines import load

    found: dict[str, Predictor] = {}
    failed: dict[str, Exception] = {}
    for i, row in enumerate(rows):
        tell(f"opening {row.name}", i / len(rows))
        try:
            found[row.name] = load(folder, row.engine, threads, precision=row.precision)
        except Exception as error:  # an engine may raise anything at what another can read
            failed[row.name] = error
    if not found:
        raise next(iter(failed.values()), ImportError(f"no engine is installed; type: {install('onnxruntime')}"))
    return found, {name: str(error) for name, error in failed.items()}


def _timed(row: Row, found: "Race", predictor: "Predictor") -> Row:
    return replace(
        row,
        per_second={size: found.per_second(row.name, size) for size in found.laps[row.name]},
        p50_ms=found.quantile_ms(row.name, 50),
        p99_ms=found.quantile_ms(row.name, 99),
        packs=predictor.pack is not None,
    )


def _start(folder: Path, row: Row, sample: "Sample", threads: int | None, start: Start | None) -> float | None:
    if start is None or row.precision != "saved":
        return None
    from subprocess import SubprocessError

    pair = None if sample.pairs is None else sample.pairs[0]
    try:
        return start(folder, row.engine, sample.texts[0], pair, threads or 0)[0]
    except (OSError, ValueError, SubprocessError) as error:
        logger.warning("%s could not be started in a process of its own (%s)", row.name, error)
        return None


def _sentence(
    folder: Path, found: "Race", chosen: str, sizes: Sequence[int], sample: "Sample", failed: Mapping[str, str]
) -> str:
    def figures(name: str) -> str:
        rates = {size: f"{_short(found.per_second(name, size))} texts a second in batches of {size}" for size in sizes}
        alone = f"{_short(found.quantile_ms(name, 50))} ms for a text" if 1 in sizes else ""
        said = [alone if size == 1 else rate for size, rate in rates.items()]
        return f"{name} with {' and '.join(said)}"

    others = [figures(name) for name in found.laps if name != chosen]
    others += [f"{name}, which failed ({' '.join(why.split())[:200]})" for name, why in failed.items()]
    name = folder.resolve().name
    return f"{name} runs fastest here on {figures(chosen)}, before {', '.join(others)}; measured on {sample}"


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _none(folder: Path, failed: Mapping[str, str]) -> ValueError:
    words = "; ".join(f"{name}: {why}" for name, why in failed.items())
    return ValueError(f"no engine can run '{folder}' ({words}); copy the artefact again from its source")


def _sizes(batch_size: int | None) -> list[int]:
    """The batch sizes that the choice goes by."""
    return [1, BATCH] if batch_size is None else [batch_size]


def _table_of(entry: Mapping[str, Any]) -> Table | None:
    """The table that was remembered, None where there is none."""
    try:
        rows = [Row(**row) for row in entry["rows"]]
        rows = [replace(row, per_second={int(n): float(v) for n, v in row.per_second.items()}) for row in rows]
        return Table(rows, str(entry["texts"]), remembered=True)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
