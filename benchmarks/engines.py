"""Gossamer's engines beside every peer that can be installed, in one interleaved run; writes docs/results/engines.md.

    python benchmarks/engines.py [--work runs/engines] [--shapes bert-base,minilm] [--rounds 5] [--threads 2]
                                 [--only speed,ways,labels,skewed-ends,ends,cold] [--among WORD,...] [--compiled]
                                 [--quick] [--render]

Two models, BERT-base (random weights) and MiniLM (all-MiniLM-L6-v2), are written into --work once, for gossamer and for
each peer by its own tools.  Speed: token ids to logits, one text at a time, batches in the order of arrival, all at
once, and bulk, with the machine's limit timed in the same rounds.  Ways: exits, skipped tokens, half
the structure.  Labels: what int8 changes on Rotten Tomatoes, by the model that `make demo` has fine-tuned (--tuned).
Ends: from English text, skewed-ends of skewed lengths, ends film reviews.  Cold: fresh processes.
With --only, the other parts stand as they were left in --work; --render measures nothing.  --among: only contestants
whose name contains one of the words.  --compiled: torch.compile too, which is slow to start.  --quick: MiniLM, two
rounds of few texts, no bulk, the page into --work.  Needs openvino, nncf, onnx, onnxruntime, ctranslate2; what is
missing is left out, and the page says so.  About an hour and a half on two cores, which nobody else should use
meanwhile.

A further part is a module with `measure(shape, folders, options)` in PARTS here, and a section in peers/page.py
(SECTIONS); what it aims at goes into peers/goals.py (GOALS).
"""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from peers import cold, ends, labels, made, page, shapes, speed, ways
from peers.shapes import Folders, say

PARTS: dict[str, Callable[[str, Folders, Any], dict[str, Any]]] = {
    "speed": speed.measure,
    "ways": ways.measure,
    "labels": labels.measure,
    "skewed-ends": ends.measure_skewed,
    "ends": ends.measure,
    "cold": cold.measure,
}
RESULTS = Path("docs/results")


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """What a process of its own gives, so that nobody is timed in what another left behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def prepare(shape: str, folders: Folders) -> None:
    """Write what is asked, as far as it is not there."""
    say(f"{shape}: files")
    shapes.write(shape, folders)
    made.write(folders, shapes.texts().skewed)


def part(name: str, shape: str, folders: Folders, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one part for one shape."""
    say(f"{shape}: {name}")
    return PARTS[name](shape, folders, options)


def kept(work: Path, quick: bool) -> Path:
    """Where figures are kept."""
    folder = work / ("quick" if quick else "figures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """All figures that there are, by part and shape."""
    files = {name: {shape: folder / f"{name}-{shape}.json" for shape in shapes.SHAPES} for name in PARTS}
    return {
        name: {shape: json.loads(file.read_text()) for shape, file in some.items() if file.is_file()}
        for name, some in files.items()
    }


def options() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/engines"))
    parser.add_argument("--shapes", default=None, metavar="SHAPE,...", help=f"of {', '.join(shapes.SHAPES)}")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--among", default="", metavar="WORD,...")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tuned", type=Path, default=Path("runs/demo/teacher"))
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--out", type=Path, default=None, help="docs/results, with --quick the folder of --work")
    told = parser.parse_args()
    told.shapes = (told.shapes or ("minilm" if told.quick else ",".join(shapes.SHAPES))).split(",")
    told.only, told.among = told.only.split(","), tuple(filter(None, told.among.split(",")))
    told.rounds = told.rounds or (2 if told.quick else 5)
    for given, known, what in ((told.shapes, shapes.SHAPES, "shape"), (told.only, PARTS, "part")):
        for one in given:
            if one not in known:
                parser.error(f"unknown {what} '{one}', expected some of: {', '.join(known)}")
    return told


def main() -> None:
    """Write the files, measure, and write the page."""
    told = options()
    os.environ["RAYON_NUM_THREADS"] = str(told.threads)  # the tokenizers'
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["GOSSAMER_CACHE"] = str(told.work.absolute() / "cache")  # what "auto" remembers is of this run alone
    figures = kept(told.work, told.quick)
    for shape in [] if told.render else told.shapes:
        folders = Folders(told.work.absolute() / shape)
        apart(prepare, shape, folders)
        for name in told.only:
            found = apart(part, name, shape, folders, told)
            (figures / f"{name}-{shape}.json").write_text(json.dumps(found), encoding="utf-8")
    results = gathered(figures)
    out = told.out or (figures if told.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    (out / "engines.json").write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")
    (out / "engines.md").write_text(page.render(results), encoding="utf-8")
    say(f"wrote {out / 'engines.md'}")


if __name__ == "__main__":
    main()
