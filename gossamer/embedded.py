"""The main job on the embedded default: a real encoder and real texts, without a model hub."""

import json
import logging
from pathlib import Path
from typing import Any

from gossamer.measure.time import Schedule
from gossamer.pipeline import FineTune, compress
from gossamer.terminal import progress

log = logging.getLogger(__name__)

MINUTES = 12.0  # what the estimate may say, for a demo that is over within fifteen on two cores
# Measured: with half of the layers' weights gone, so short a pruning loses about two points.  Hidden dimensions stay
# whole: there is too little time to learn which of them to cut.
RECIPE = "then(CoFi(0.5, hidden=False, prune_epochs=1.0, tune_epochs=1.5, warmup=0.5, lr=1e-4), Int8())"


def demo(out: str | Path = "runs/demo", quick: bool = False) -> dict[str, Any]:
    """Fine-tune the embedded MiniLM on Rotten Tomatoes, prune it under distillation, round it to int8, and measure.

    Results: `out`/teacher, `out`/artefact.  An interrupted run is continued; a finished one is shown again.  quick: 20
    steps a stage, to see that everything runs, not how well.

    Raises:
        ValueError: the packages with the model or the texts are missing (the message says what to type).
    """
    place = Path(out)
    if (place / "artefact" / "report.json").is_file():
        log.info("%s holds a finished run; delete it, or choose another --out, to run again", place)
        return dict(json.loads((place / "artefact" / "report.json").read_text()))
    measuring = {"schedule": Schedule(singles=50, pool=64, rounds=3), "examples": 50} if quick else {}
    with progress() as bar:
        return compress(
            "minilm",
            RECIPE,
            data="rotten-tomatoes",
            out=place / "artefact",
            teacher_out=place / "teacher",
            fine_tune=FineTune(epochs=2.0),
            max_steps=20 if quick else None,
            minutes=MINUTES,
            resume=True,
            measuring=measuring,
            progress=bar,
        )
