"""From nothing to the first answer: how long a fresh process takes, and the most memory that it ever held.

What a serverless function or a command-line tool waits for: the interpreter, imports, reading the weights, the first
text.  The operating system has read the files before, so a disk is not measured.  Each run is a process of its own; the
sides take turns, and the median counts.  The peak is the process's own (VmHWM; where there is no /proc,
ru_maxrss, which is no less than what this process held when it started the other).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

RUNS = 3
LONGEST = 600.0  # seconds that a process may take

TELL = """
def peak():
    # not ru_maxrss where it can be helped: that one is inherited from whoever started the process, through exec
    try:
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        import resource, sys
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"answered": answered, "peak": peak()}))
"""  # after `json` and `answered`
CHILD = """
import json, sys, time
folder, engine, text, pair, threads = sys.argv[1:6]
if engine == "eager":
    import torch
    from gossamer.measure.eager import eager
    torch.set_num_threads(int(threads) or torch.get_num_threads())
    answer = eager(folder, None).logits
else:
    from gossamer.engines import load
    answer = load(folder, engine=engine, threads=int(threads) or None).logits
answer([text], json.loads(pair))
answered = time.time()
"""


@dataclass(frozen=True)
class Cold:
    """Medians: seconds from the start of a process to its first answer, peak_bytes of resident memory."""

    seconds: float
    peak_bytes: int
    runs: int


def cold(
    sides: Mapping[str, tuple[Path, str]], text: str, pair: str | None = None, threads: int = 0, runs: int = RUNS
) -> dict[str, Cold | str]:
    """The cold start of each side, taking turns; where it failed, why.

    sides: by name the folder and the engine, "eager" for transformers as it comes.  text, pair: what is asked first.
    threads: 0 for each engine's own.
    """
    laps: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for turn in range(runs + 1):  # the first turn brings the files into memory and does not count
        for name, (folder, engine) in sides.items():
            if name in failed:
                continue
            try:
                lap = once(folder, engine, text, pair, threads)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
                continue
            laps[name] += [lap] if turn else []
    return {name: failed[name] if name in failed else _median(laps[name]) for name in sides}


def once(folder: Path, engine: str, text: str, pair: str | None = None, threads: int = 0) -> tuple[float, int]:
    """Seconds to the first answer of a fresh process, and its peak of resident memory in bytes.

    Raises:
        ValueError: the process failed; with its last words.
        subprocess.TimeoutExpired: it took more than LONGEST seconds.
    """
    began = time.time()
    asked = (text, json.dumps(None if pair is None else [pair]), str(threads))
    command = [sys.executable, "-c", CHILD + TELL, str(folder), engine, *asked]
    place = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": place}, timeout=LONGEST
    )
    if done.returncode != 0 or not done.stdout.strip():
        raise ValueError(f"a fresh process could not answer: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return float(told["answered"]) - began, int(told["peak"])


def _median(laps: Sequence[tuple[float, int]]) -> Cold:
    seconds, peaks = zip(*laps, strict=True)
    return Cold(float(median(seconds)), int(median(peaks)), len(laps))
