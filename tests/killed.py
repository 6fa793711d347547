"""Run as a script: compress in one go, and in another folder killed again and again; prints what came of both as JSON.

The processes that are killed are forks of this one, so that each does not import everything again.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gossamer import artefact, pipeline
from gossamer.measure.time import Schedule

RECIPE = "then(Share(groups=2), LTP(threshold=0.3), Int8())"
QUICK = {"schedule": Schedule(singles=2, pool=4, rounds=1, burst=2, warmup=1), "examples": 2}
# what has just been said when the process dies
MOMENTS = (
    "fine-tune: step 1 of", "fine-tune: step 4 of", "relearn: the teacher reads", "relearn: step 1 of",
    "relearn: step 3 of", "soft thresholds: step 4 of", "hard thresholds: step 3 of", "writing the graph",
    "reading the artefact back", "opening the models", "measured",
)  # fmt: skip
torch.set_num_threads(1)
pipeline.graph = lambda job, part: None  # type: ignore[assignment]  # slow, and told at other tests
pipeline.artefact.in_fresh_process = lambda folder: None  # type: ignore[attr-defined]  # so is this


def compress(place: Path, name: str, progress: Any = None) -> dict[str, Any]:
    return pipeline.compress(
        str(place / "model"), RECIPE, data=place / "data.csv", out=place / name, max_steps=4, resume=True,
        autocast=False, measuring=QUICK, progress=progress,
    )  # fmt: skip


def forked(place: Path, name: str, moment: str | None = None, after: float | None = None) -> int:
    """The status of a process that dies once it has said `moment`, or after so many seconds, or not at all."""
    child = os.fork()
    if child == 0:

        def say(what: str, share: float) -> None:
            if moment is not None and what.startswith(moment):
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            compress(place, name, say)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status := os.waitpid(child, 0)[1]) else -os.WTERMSIG(status)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    whole, statuses, there = forked(place, "whole"), dict[str, int](), list[bool]()
    for moment in MOMENTS:
        statuses[moment] = forked(place, "again", moment)
        there.append((place / "again").exists())
    for after in (0.2, 0.45, 0.7):
        forked(place, "third", after=after)
    final = [forked(place, name) for name in ("again", "third", "third")]
    digests = {
        name: hashlib.sha256((place / name / "model.safetensors").read_bytes()).hexdigest()
        for name in ("whole", "again", "third")
    }
    differences = [artefact.compare(place / name) for name in digests]
    left = sorted(p.name for p in place.iterdir())
    print(json.dumps([whole, statuses, there, final, digests, differences, left]))
