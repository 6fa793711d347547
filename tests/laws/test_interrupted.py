"""Law 6: interrupted inside any stage and between any two, and resumed: the very same weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gossamer.job import Job
from gossamer.train import drive, then
from tests import small


class Interrupted(Exception):
    """Somebody pulled the plug."""


def run(folder: Path, names: tuple[str, ...], stop: tuple[int, int] | None = None) -> Job:
    """The methods of a recipe, in a folder that may hold a beginning; stop: (stage, step) where it is interrupted."""
    job = small.job(folder)
    job.max_steps = max(small.STEPS.get(name, 3) for name in names)
    job.resume, job.save_every = True, 1

    def progress(what: str, share: float) -> None:
        if stop is not None and job.stage == stop[0] and f"step {stop[1]} of" in what:
            raise Interrupted

    job.progress = progress
    drive(job, then(*map(small.method, names)))
    return job


def interrupted_everywhere(folder: Path, names: tuple[str, ...], stages: int) -> Job:
    for stage in range(1, stages + 1):
        for step in (1, 2):  # before the first checkpoint: the stages before are read back; after it: this one, too
            if step == 1 and stage == 1:
                continue  # nothing has been written down yet
            with pytest.raises(Interrupted):
                run(folder, names, (stage, step))
    run(folder, names)
    return run(folder, names)  # and all of it read back


def same(one: Job, two: Job) -> bool:
    a, b = one.model.state_dict(), two.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", small.NAMES)
def test_law_6(name: str, finished: Callable[..., Job], tmp_path: Path) -> None:
    whole = finished(name)
    again = interrupted_everywhere(tmp_path, (name,), whole.stage)
    assert again.stage == whole.stage and same(again, whole)
    assert torch.equal(small.logits(again.model), small.logits(whole.model))
    assert not list(tmp_path.rglob("checkpoint-*")), "a finished stage needs its end only"
    assert len(list(tmp_path.glob("stage-*/end.safetensors"))) == whole.stage


def test_law_6_for_what_a_form_has_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small.FIELDS, "TernaryBERT", {"rule": "lat"})
    whole = run(tmp_path / "whole", ("TernaryBERT",))
    assert same(interrupted_everywhere(tmp_path / "again", ("TernaryBERT",), whole.stage), whole)


@pytest.mark.parametrize(
    "names", [("Share", "TernaryBERT", "LTP"), ("TinyBERT", "DRONE", "PABEE", "Int8")], ids="-".join
)
def test_law_6_for_whole_recipes(names: tuple[str, ...], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", names)
    assert same(interrupted_everywhere(tmp_path / "again", names, whole.stage), whole)
