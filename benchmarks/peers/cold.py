"""From nothing to the first answer, in fresh processes that take turns: seconds, and the most memory held."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from gossamer.measure.cold import TELL

from . import made
from .contestants import CT2_INT8, EAGER, ORT_INT8, OV_INT8
from .shapes import Folders, say

TEXT = "a film that is better than it has any right to be"
FLOOR = "python and numpy alone"
CACHED = f"{OV_INT8}, compiled before"
LONGEST = 300.0

ASKED = """
from tokenizers import Tokenizer
one = Tokenizer.from_file(tokens).encode(text)
given = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
given = {name: numpy.array([value], numpy.int64) for name, value in given.items()}
"""
CODES = {
    FLOOR: "",
    "gossamer": """
from gossamer.engines import load
load(folder, engine=engine, threads=threads).logits([text])
""",
    EAGER: """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
torch.set_num_threads(threads)
model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
with torch.inference_mode():
    model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits.numpy()
""",
    ORT_INT8: ASKED
    + """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(folder, options, providers=["CPUExecutionProvider"])
session.run(["logits"], {one.name: given[one.name] for one in session.get_inputs()})
""",
    OV_INT8: ASKED
    + """
import openvino
settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
if engine:
    settings["CACHE_DIR"] = engine
compiled = openvino.Core().compile_model(folder, "CPU", settings | {"ENABLE_CPU_PINNING": False})
compiled({one.get_any_name(): given[one.get_any_name()] for one in compiled.inputs})
""",
    CT2_INT8: ASKED
    + """
import ctranslate2
encoder = ctranslate2.Encoder(folder, compute_type="int8", intra_threads=threads)
said = encoder.forward_batch([one.ids], token_type_ids=[one.type_ids]).pooler_output
head = numpy.load(folder + "/head.npz")
numpy.array(said) @ head["weight"].T + head["bias"]
""",
}
BEGIN = """
import json, sys
folder, engine, tokens, text, threads = sys.argv[1:6]
threads = int(threads)
import numpy
"""
END = """
import time
answered = time.time()
"""


def measure(shape: str, folders: Folders, options: Any) -> dict[str, Any]:
    """Medians of all that start, by name: seconds, peak (bytes); or why one does not.  options: threads, quick."""
    runs = 1 if options.quick else 5
    laps: dict[str, list[tuple[float, int]]] = {}
    failed: dict[str, str] = {}
    sides = _sides(folders)
    for turn in range(0 if options.quick else -1, runs):  # the first turn brings files into memory, and does not count
        say(f"  cold starts: {'warm-up' if turn < 0 else f'{turn + 1} of {runs}'}")
        for name, (code, folder, engine) in sides.items():
            if name in failed:
                continue
            try:
                lap = once(code, (folder, engine, str(folders.plain / "tokenizer.json"), TEXT, str(options.threads)))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = str(error)[:200]
                continue
            if turn >= 0:
                laps.setdefault(name, []).append(lap)
    return {"runs": runs, "failed": failed, "sides": _medians(laps)}


def _sides(folders: Folders) -> dict[str, tuple[str, str, str]]:
    """By name: the code, and what it is given."""
    from gossamer.engines import ENGINES

    cache = folders.root / "cache"
    files = folders.peers
    return {
        FLOOR: (CODES[FLOOR], "", ""),
        **{f"gossamer {one} int8": (CODES["gossamer"], str(folders.int8), one) for one in ENGINES},
        EAGER: (CODES[EAGER], str(folders.plain), ""),
        ORT_INT8: (CODES[ORT_INT8], str(files / made.ONNX_INT8), ""),
        OV_INT8: (CODES[OV_INT8], str(files / made.OPENVINO_INT8), ""),
        CACHED: (CODES[OV_INT8], str(files / made.OPENVINO_INT8), str(cache)),
        CT2_INT8: (CODES[CT2_INT8], str(files / made.CTRANSLATE2), ""),
    }


def once(code: str, given: tuple[str, ...]) -> tuple[float, int]:
    """Seconds until a fresh process has answered, and its peak of resident memory in bytes.

    Raises:
        ValueError: it failed; with its last words.
    """
    place = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code + END + TELL, *given],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": ""},  # packages are installed with theirs
        timeout=LONGEST,
    )
    if done.returncode != 0 or not done.stdout.strip():
        raise ValueError((done.stderr.strip().splitlines() or ["no word"])[-1])
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return float(told["answered"]) - began, int(told["peak"])


def _medians(laps: Mapping[str, list[tuple[float, int]]]) -> dict[str, dict[str, float]]:
    found = {}
    for name, some in laps.items():
        seconds, peaks = zip(*some, strict=True)
        found[name] = {"seconds": round(median(seconds), 3), "peak": int(median(peaks))}
    return found
