"""The whole job on written texts: what it leaves, what it refuses, and what `kill -9` cannot do to it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer import artefact, pipeline, plan
from gossamer.measure.time import Schedule
from gossamer.runtime.manifest import check
from tests import small, texts

ROOT = Path(__file__).parents[1]
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
QUICK = {"schedule": Schedule(singles=2, pool=4, rounds=1, burst=2, warmup=1), "examples": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fine-tuned model, an encoder without a head, and data."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    texts.folder(folder / "tuned")
    texts.folder(folder / "encoder", small.model().bert)
    texts.file(folder / "data.csv")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the graph and the fresh process, which take most of the time."""
    monkeypatch.setattr(pipeline, "graph", lambda job, part: None)
    monkeypatch.setattr(artefact, "in_fresh_process", lambda folder: None)


def listen() -> None:
    """In a child: hear Ctrl-C, also where the tests run in the background of a shell, which turns it off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def compress(place: Path, out: Path, model: str = "tuned", recipe: str = "Int8()", **more: Any) -> dict[str, Any]:
    given = {"data": place / "data.csv", "max_steps": 2, "autocast": False, "measuring": QUICK} | more
    return pipeline.compress(str(place / model), recipe, out=out, **given)


@pytest.mark.usefixtures("quick")
def test_a_tuned_model_is_compressed(place: Path, tmp_path: Path) -> None:
    report = compress(place, tmp_path / "out", recipe="then(Share(groups=2), Int8())")
    assert set(report) >= {"task", "data", "seed", "versions", "hardware", "recipe", "baseline", "compressed"}
    assert report["recipe"].startswith("then(Share(groups=2") and report["compressed"]["model"] == str(tmp_path / "out")
    assert report["baseline"]["model"] == str(place / "tuned")
    code = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.py"))  # much, beside so small a model
    assert report["compressed"]["bytes"] - code < report["baseline"]["bytes"] / 2
    for side in ("baseline", "compressed"):
        assert set(report[side]["quality"]) == {"value", "metric", "low", "high", "better"} and report[side]["macs"] > 0
    assert 0 <= report["compressed"]["label_loyalty"] <= 1 >= report["compressed"]["probability_loyalty"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing else is left"
    check(tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "recipe.txt", "report.json", "README.md", "manifest.json"} <= names
    assert json.loads((tmp_path / "out" / "report.json").read_text())["recipe"] == report["recipe"]
    assert (tmp_path / "out" / "recipe.txt").read_text().strip() == report["recipe"]
    read = artefact.load(tmp_path / "out")
    assert read.config.id2label == dict(enumerate(small.LABELS))


@pytest.mark.usefixtures("quick")
def test_an_encoder_is_fine_tuned_first(place: Path, tmp_path: Path) -> None:
    report = compress(place, tmp_path / "out", "encoder", max_steps=4)
    assert report["baseline"]["model"] == str(tmp_path / "out-teacher")
    assert {e["stage"] for e in report["training"]} == {"fine-tune"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out-teacher"]
    again = compress(place, tmp_path / "out", "encoder", max_steps=4, resume=True)
    assert again["compressed"] == report["compressed"], "a finished run is told, not done again"


@pytest.mark.usefixtures("quick")
def test_a_dry_run_does_nothing(place: Path, tmp_path: Path) -> None:
    told = compress(place, tmp_path / "out", "encoder", "then(Theseus(), Int8())", dry_run=True)
    assert [s["stage"] for s in told["stages"]] == ["fine-tune", "replace", "tune the successors"]
    assert all(s["steps"] == 2 and s["seconds"] >= 0 for s in told["stages"]) and told["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_job_that_would_take_too_long_is_shortened(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "seconds_per_step", lambda job, size: 1.0)
    monkeypatch.setattr(plan, "AFTER", 10)
    given: dict[str, Any] = {"recipe": "CoFi(prune_epochs=100, tune_epochs=100)", "max_steps": None, "dry_run": True}
    free = compress(place, tmp_path / "out", **given)
    steps = [s["steps"] for s in free["stages"]]
    fixed = free["seconds"] - sum(steps)
    assert free["share"] == 1 and fixed > 10, "the teacher's reading counts"
    told = compress(place, tmp_path / "out", minutes=(fixed + sum(steps) / 4) / 60, **given)
    assert told["share"] == pytest.approx(0.25) and [4 * s["steps"] for s in told["stages"]] == pytest.approx(
        steps, abs=4
    )
    assert any(line == "every stage is shortened to 25% of its length for the sake of time" for line in told["lines"])
    assert compress(place, tmp_path / "out", minutes=1e3, **given)["share"] == 1, "time enough"
    late = compress(place, tmp_path / "out", minutes=1e-3, **given)
    assert late["share"] == plan.LEAST and any(
        "even so it takes longer than the time given" in x for x in late["lines"]
    )
    capped = compress(place, tmp_path / "out", minutes=(fixed + 4) / 60, **given | {"max_steps": 4})
    assert [s["steps"] for s in capped["stages"]] == [2, 2], "half of what it would have taken, not of what it could"

    def kill(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "drive", kill)
        compress(place, tmp_path / "cut", recipe="Share(groups=2)", max_steps=None, minutes=13 / 60)
    note = json.loads((tmp_path / ".cut.work" / "job.json").read_text())
    assert 0 < note["share"] < 1
    monkeypatch.setattr(plan, "seconds_per_step", lambda job, size: 0.1)  # a faster hour: the share stays what it was
    compress(place, tmp_path / "cut", recipe="Share(groups=2)", max_steps=None, minutes=13 / 60, resume=True)
    assert (tmp_path / "cut" / "report.json").is_file()


@pytest.mark.usefixtures("quick")
def test_an_artefact_is_compressed_once_more(place: Path, tmp_path: Path) -> None:
    compress(place, tmp_path / "first", recipe="DRONE(tune_epochs=0.0)")
    compress(place, tmp_path / "second", model=str(tmp_path / "first"), recipe="Int8()")
    kinds = {type(m).__name__ for m in artefact.load(tmp_path / "second").modules()}
    assert {"LowRank", "ScoreAttention", "IntLinear"} <= kinds
    with pytest.raises(ValueError, match=r"DRONE comes too late: the model already holds Int.*; put DRONE first"):
        compress(place, tmp_path / "third", model=str(tmp_path / "second"), recipe="DRONE()")


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_is_neither_lost_nor_mixed_up(place: Path, tmp_path: Path) -> None:
    def stop(what: str, share: float) -> None:
        if "step 2" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(place, tmp_path / "out", recipe="Share(groups=2)", progress=stop)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.work" / "job.json").is_file()
    with pytest.raises(ValueError, match=r"an interrupted run left .*; add --resume to continue it, or delete"):
        compress(place, tmp_path / "out", recipe="Share(groups=2)")
    with pytest.raises(ValueError, match=r"belongs to another job \(.*seed 0 then, 3 now.*\); repeat that command"):
        compress(place, tmp_path / "out", recipe="Share(groups=2)", seed=3, resume=True)
    with pytest.raises(ValueError, match=r"belongs to another job \(recipe .*\)"):
        compress(place, tmp_path / "out", recipe="Share(groups=1)", resume=True)
    compress(place, tmp_path / "out", recipe="Share(groups=2)", resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.usefixtures("quick")
def test_an_artefact_that_answers_otherwise_never_appears(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(folder: Path) -> None:
        raise RuntimeError("the artefact does not answer as the model did")

    monkeypatch.setattr(artefact, "in_fresh_process", differs)
    with pytest.raises(RuntimeError, match="does not answer"):
        compress(place, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [".out.work"]


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(place: Path, tmp_path: Path) -> None:
    texts.folder(tmp_path / "model", small.model().bert)
    texts.file(tmp_path / "data.csv")
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ALONE)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, statuses, there, final, digests, differences, left = json.loads(done.stdout.splitlines()[-1])
    assert whole == 0 and final == [0, 0, 0], done.stderr[-3000:]
    assert set(statuses.values()) == {-signal.SIGKILL}, statuses
    assert not any(there), "an artefact appeared before it was whole"
    assert len(set(digests.values())) == 1, digests
    assert max(differences) <= 1e-6
    assert left == ["again", "again-teacher", "data.csv", "model", "third", "third-teacher", "whole", "whole-teacher"]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_resume_goes_on(place: Path, tmp_path: Path) -> None:
    """The real command, with everything it does at the end."""
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "gossamer.cli", "compress", str(place / "tuned"), "--data", str(place / "data.csv"),
        "--recipe", "then(Share(groups=2, epochs=40), PABEE(patience=1, epochs=1.0))", "--out", str(out),
        "--no-autocast",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ALONE, preexec_fn=listen
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("with export"):  # the plan is told, training begins
                break
        end = time.monotonic() + 60
        while not list(tmp_path.glob(".out.work/stage-01-relearn/checkpoint-*")) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        last = process.stderr.read().strip().splitlines()[-1]
        assert process.wait(60) == 130
    assert last == "interrupted; the same command with --resume continues"
    assert not out.exists() and (tmp_path / ".out.work").is_dir()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, env=ALONE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"artefact: {out}" in done.stdout and artefact.compare(out) <= 1e-6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("bf16", "able", "faster"), [(1.0, True, False), (0.7, True, False), (0.4, True, True), (0.4, False, False)]
)
def test_bf16_is_taken_where_it_was_timed_to_be_faster(bf16, able, faster, monkeypatch):
    class Clock:
        """It goes on by what a product of the last kind takes: 1 in float32, `bf16` in bfloat16."""

        now, cost = 0.0, 1.0

        def ones(self, *shape, dtype):
            self.cost = bf16 if dtype == torch.bfloat16 else 1.0
            return torch.zeros(*shape, dtype=dtype)

        def perf_counter(self):
            self.now += self.cost
            return self.now

    clock = Clock()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pipeline, "halves", lambda: able)
    monkeypatch.setattr(torch, "ones", clock.ones)
    monkeypatch.setattr(pipeline, "time", clock)
    assert pipeline.faster_in_bf16.__wrapped__() is faster
