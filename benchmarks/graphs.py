"""What the layout of rows, attention as one operator, and new shapes cost or save, each alone, engine by engine.

    python benchmarks/graphs.py [--work runs/engines] [--rounds 15] [--threads 2] > benchmarks/graphs.txt

MiniLM as benchmarks/engines.py writes it, Int8(static=True); both sides of a ratio take turns, medians.  Rows: 30
batches of 32 texts that nobody has seen before, rows of chosen widths against rows of 128 tokens.  Attention: one text,
and texts laid end to end, as one operator against spelled out.  Care: OpenVINO looks for tokens that may look at none
in every layer, which we spare it.  Shapes: the first call with a grid's shape against later ones.  Tags: a tagger whose
tokens leave on the way (LTP), one text at a time, by the one graph for it against the stages.  Kernels: without VNNI,
ONNX Runtime's quick ones, exact by how Int8 rounds weights, against its exact ones, in use and to load.  Use the
machine for nothing else meanwhile.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest import mock

import numpy as np
from peers.shapes import Folders, artefact_of, bounded, once, stamp, write

from gossamer.engines import graph, load, onnxruntime, openvino
from gossamer.engines.course import Program
from gossamer.engines.graphs import ALONE, GRAPH, PACKED
from gossamer.engines.packing import WIDTHS, fill, layouts, together
from gossamer.engines.predictor import pad
from gossamer.engines.texts import Facts, facts
from gossamer.environment import hardware, saturates
from gossamer.runtime.manifest import seal
from gossamer.task import Read

ENGINES = {"onnxruntime": onnxruntime.program, "openvino": openvino.program}
CHANCE = np.random.default_rng(0)
THRESHOLD, SHORT = 0.02, 20  # of importance, at which tokens leave texts of so many tokens


def texts(lengths: Sequence[int]) -> list[Read]:
    """Token ids by chance."""
    return [Read(CHANCE.integers(1000, 2000, n).tolist(), [0] * n, False) for n in lengths]


def lap(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = perf_counter()
    work()
    return 1e3 * (perf_counter() - began)


def turns(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Medians, in milliseconds, of two who take turns; the first three rounds do not count."""
    laps = [(lap(one), lap(other)) for _ in range(rounds + 3)][3:]
    return median(a for a, _ in laps), median(b for _, b in laps)


def answered(program: Program, reads: Sequence[Read], known: Facts, widths: Sequence[int]) -> None:
    """Texts in rows of some widths, run."""
    for layout in layouts([len(one.ids) for one in reads], widths=widths):
        program(fill(layout, reads, known))


def rows(told: argparse.Namespace, folder: Path, known: Facts, engine: str) -> None:
    """Widths that are chosen against 128."""
    chosen, wide = (ENGINES[engine](folder / PACKED, told.threads) for _ in range(2))
    spent = [0.0, 0.0]
    for _ in range(30):
        reads = texts(np.clip(CHANCE.lognormal(3, 0.6, 32).astype(int), 3, 128).tolist())
        spent[0] += lap(partial(answered, chosen, reads, known, WIDTHS))
        spent[1] += lap(partial(answered, wide, reads, known, [128]))
    print(f"rows, fresh batches       {engine:12} {spent[0]:8.1f} {spent[1]:8.1f} {spent[1] / spent[0]:6.2f}")


def attention(told: argparse.Namespace, folders: tuple[Path, Path], known: Facts, engine: str) -> None:
    """One operator against many."""
    plain, packed = ([ENGINES[engine](at / name, told.threads) for at in folders] for name in (GRAPH, PACKED))
    asked = {f"one text of {n}": (plain, pad(texts([n]), known)) for n in (12, 24, 128)}
    for width in (32, 64, 128):
        reads = texts([width // 2] * (2048 // width))
        asked[f"rows of {width}"] = (packed, fill(together([width // 2] * len(reads)), reads, known))
    for name, ((one, many), batch) in asked.items():
        a, b = turns(lambda p=one, x=batch: p(x), lambda p=many, x=batch: p(x), told.rounds)
        print(f"attention, {name:14} {engine:12} {a:8.2f} {b:8.2f} {b / a:6.2f}")


def fresh(told: argparse.Namespace, folder: Path, known: Facts, engine: str) -> None:
    """Shapes that are new."""
    program: Program = ENGINES[engine](folder / PACKED, told.threads)
    extra = []
    for width in (32, 64, 96, 128):
        for n in (3, 7, 11, 14):
            reads = texts([width // 2] * (2 * n))
            [layout] = layouts([width // 2] * (2 * n), call=10**6, widths=[width])
            batch = fill(layout, reads, known)
            laps = [lap(lambda b=batch: program(b)) for _ in range(6)]
            extra.append(laps[0] - median(laps[2:]))
    print(f"a new shape, ms more      {engine:12} {median(extra):8.1f}")


def care(told: argparse.Namespace, folder: Path, known: Facts) -> None:
    """Without OpenVINO's care for tokens that may look at none, and with it."""
    without = openvino.program(folder / PACKED, told.threads)
    with mock.patch.object(openvino, "_attending", lambda model: model):
        careful = openvino.program(folder / PACKED, told.threads)
    for width in (32, 64, 128):
        reads = texts([width // 2] * (2048 // width))
        batch = fill(together([width // 2] * len(reads)), reads, known)
        a, b = turns(partial(without, batch), partial(careful, batch), told.rounds)
        print(f"no care, rows of {width:<8} openvino     {a:8.2f} {b:8.2f} {b / a:6.2f}")


def kernels(told: argparse.Namespace, folder: Path, known: Facts) -> None:
    """Quick ones, and those that are exact for any weights."""
    quick, exact = partial(onnxruntime.program, folder / PACKED, told.threads), partial(unfit, folder / PACKED, told)
    sides = quick(), exact()
    asked = {f"one text of {n}": texts([n]) for n in (12, 24, 128)} | {"2048 tokens": texts([32] * 64)}
    for name, reads in asked.items():
        batch = fill(together([len(one.ids) for one in reads]), reads, known)
        a, b = turns(*(partial(side, batch) for side in sides), told.rounds)
        print(f"kernels, {name:16} onnxruntime  {a:8.2f} {b:8.2f} {b / a:6.2f}")
    a, b = turns(quick, exact, told.rounds)
    print(f"kernels, to load          onnxruntime  {a:8.2f} {b:8.2f} {b / a:6.2f}")


def unfit(graph: Path, told: argparse.Namespace) -> Program:
    """A graph as if its weights were any."""
    with mock.patch.object(onnxruntime, "fits", lambda graph: False):
        return onnxruntime.program(graph, told.threads)


def tagger(plain: Path, part: Path) -> None:
    """A tagger with the plain model's layers, which loses tokens by a threshold in the middle of each."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer, set_seed

    from gossamer import artefact, walking
    from gossamer.engines import export
    from gossamer.runtime.walks import TokenThreshold

    set_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(plain).eval()
    tokenizer = AutoTokenizer.from_pretrained(plain)
    walking.walk(model, TokenThreshold(len(model.bert.encoder.layer), THRESHOLD, length=SHORT))
    artefact.save(model, part, tokenizer=tokenizer, also=lambda at: export.write(model, tokenizer, at), verify=False)


def by_stages(folder: Path, part: Path) -> None:
    """An artefact without its graph for texts alone."""
    shutil.copytree(folder, part)
    (part / ALONE).unlink()
    seal(part)


def tags(told: argparse.Namespace, folders: tuple[Path, Path], engine: str) -> None:
    """One graph against the stages, text by text."""
    alone, staged = (load(at, engine, threads=told.threads) for at in folders)
    for n in (12, 24, 128):
        [read] = texts([n])
        ask = [partial(lambda model, read: list(model.pack([read])), one, read) for one in (alone, staged)]
        a, b = turns(*ask, told.rounds)
        print(f"tags, one text of {n:<7} {engine:12} {a:8.2f} {b:8.2f} {b / a:6.2f}")


def main() -> None:
    """Write what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/engines"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    told = parser.parse_args()
    folders = Folders(told.work.absolute() / "minilm")
    write("minilm", folders)
    spelled = folders.root / "static-spelled"
    with mock.patch.object(graph, "fuse_attention", lambda model: 0):
        once(spelled, stamp(), lambda part: artefact_of(folders.plain, part, bounded))
    one, stages = folders.root / "tagger", folders.root / "tagger-stages"
    once(one, stamp(), partial(tagger, folders.plain))
    once(stages, stamp(), partial(by_stages, one))
    known, machine = facts(folders.static), hardware()
    print(f"{machine['cpu']} with {', '.join(machine['instructions'])}; {told.threads} threads")
    print(f"{'':38} {'now, ms':>8} {'other':>8} {'times':>6}")
    for engine in ENGINES:
        rows(told, folders.static, known, engine)
        attention(told, (folders.static, spelled), known, engine)
        fresh(told, folders.static, known, engine)
        tags(told, (one, stages), engine)
    care(told, folders.static, known)
    if saturates():
        kernels(told, folders.static, known)


if __name__ == "__main__":
    main()
