import json
import os
import subprocess
import sys

import pytest
from test_predictor import predictor

from gossamer.engines import cluster
from gossamer.engines.part import origin
from gossamer.engines.predictor import Cuts

ANSWERS = """
import json, os, signal, sys
from pathlib import Path
from gossamer.engines import cluster, load
from gossamer.engines.part import origin
from gossamer.engines.stream import answers, windows

folder = Path(sys.argv[1])
rows = [("w%d " % (i % 26) * (1 + i * 7 % 40), None if i % 5 else "the best") for i in range(1200)]
model = load(folder, "onnxruntime", 1)
plain = [said for _, some in windows(rows, model, 4, size=8) for said in some]

def descendants(title):
    "Processes of ours, by what they call themselves."
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            parents[int(place.name)] = parent, (place / "cmdline").read_text()
        except OSError:  # it has ended
            pass
    def ours(one):
        while one in parents and one != os.getpid():
            one = parents[one][0]
        return one == os.getpid()
    return [one for one, (_, line) in parents.items() if line.startswith(title) and ours(one)]

def wrong():
    yield from rows[:10]
    raise ValueError("row 11 is wrong")

found, killed, most, read = [], {}, 0, 0
def given():
    global read
    for row in rows:
        read += 1
        yield row

with cluster._connected("local") as ray:
    how = dict(batch_size=4, size=8)
    for number, (window, said) in enumerate(cluster.windows(given(), folder, "local", model.name, **how)):
        assert window == rows[len(found) : len(found) + 8]
        found += said
        most = max(most, read - len(found))
        title = {3: "ray::MapWorker", 40: "ray::MapBatches(_pulled)"}.get(number)
        for one in descendants(title) if title else []:
            killed.setdefault(title, []).append(one)
            os.kill(one, signal.SIGKILL)
    before, error = [], ""
    try:
        for _, said in cluster.windows(wrong(), folder, "local", model.name, **how):
            before += said
    except ValueError as caught:
        error = str(caught)
    files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    far = cluster._Answers("/nowhere", origin(folder), [ray.put(files)], model.name, 1, 4)
    row = far({"number": 7, "rows": json.dumps(rows[:8])})
    actors = int(ray.cluster_resources()["CPU"])
print(json.dumps({
    "equal": found == plain, "killed": sorted(killed),
    "before": before == plain[:10], "error": error, "told": os.environ["RAY_USAGE_STATS_ENABLED"],
    "far": [json.loads(row["said"]) == plain[:8], far.place != folder, row["number"]],
    "bounded": most <= 8 * (8 * actors + 4),
}))
"""


@pytest.mark.slow
def test_a_cluster_answers_as_one_machine_does_even_when_workers_are_killed(artefact):
    pytest.importorskip("ray.data")
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, artefact.folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "equal": True, "killed": ["ray::MapBatches(_pulled)", "ray::MapWorker"],
        "before": True, "error": "row 11 is wrong", "told": "0", "far": [True, True, 7], "bounded": True,
    }  # fmt: skip


@pytest.mark.slow
def test_the_command_answers_over_a_cluster_and_only_answers_stand_on_stdout(artefact, tmp_path):
    pytest.importorskip("ray.data")
    given = "".join(f"w{i % 26} the best\n" for i in range(100))
    base = [sys.executable, "-m", "gossamer.cli", "predict", str(artefact.folder), "--engine", "onnxruntime"]
    runs = [
        subprocess.run([*base, *more], input=given, capture_output=True, text=True, timeout=300, check=False)
        for more in (["--threads", "1"], ["--threads", "1", "--ray", "local"])
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert runs[1].stdout == runs[0].stdout and len(runs[0].stdout.splitlines()) == 100


def test_without_ray_an_error_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'needs Ray Data, which is not installed; type: pip install "gossamer\[clus'):
        next(cluster.windows(iter([("a", None)]), "folder", "local", "onnxruntime"))


def test_an_address_where_nobody_listens_is_told_at_once():
    pytest.importorskip("ray.data")
    with pytest.raises(
        ConnectionError, match=r"no Ray cluster at '127\.0\.0\.1:1' .*; start one with: ray start --head"
    ):
        next(cluster.windows(iter([("a", None)]), "folder", "127.0.0.1:1", "onnxruntime"))


def test_a_worker_takes_no_other_weights_for_the_artefact(tmp_path):
    for name, content in (("here", b"trained"), ("there", b"trained"), ("other", b"another")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(content)
    known = origin(tmp_path / "here")
    found = [cluster._is(tmp_path / name, known) for name in ("there", "other", "nowhere")]
    assert found == [True, False, False]


def test_a_belt_holds_what_is_not_answered_yet():
    import asyncio

    async def use():
        belt = cluster._Belt()
        waits = asyncio.create_task(belt.take(1))
        await belt.put(0, "zero")
        assert not waits.done()
        await belt.put(1, "one")
        found = [await waits, await belt.take(0), await belt.take(0)]
        await belt.done(1)
        await belt.end(2)
        return [*found, await belt.take(0), await belt.take(1), await belt.take(2), sorted(belt.windows)]

    assert asyncio.run(use()) == ["one", "zero", "zero", "[]", "one", None, [1]]


def test_windows_come_back_once_and_in_order(caplog):
    feeder = object.__new__(cluster._Feeder)
    freed, done = [], []
    feeder.room = type("Room", (), {"release": lambda self: freed.append(True)})()
    feeder.belt = type("Belt", (), {"done": type("Done", (), {"remote": staticmethod(done.append)})})
    feeder.waiting, feeder.error = cluster.deque([["a"], ["b"], ["c"]]), []
    feeder.cuts = Cuts(predictor().facts)
    order = [1, 1, 0, 0, 2]
    came = iter([{"number": i, "said": json.dumps([{"label": str(i)}]), "cut": i, "error": ""} for i in order])
    assert list(feeder.matched(came)) == [
        (["a"], [{"label": "0"}]),
        (["b"], [{"label": "1"}]),
        (["c"], [{"label": "2"}]),
    ]
    assert done == [1, 2, 3] and len(freed) == 3
    assert [one.getMessage() for one in caplog.records] == [
        "1 of the first 2 texts are longer than 8 tokens and are truncated; later ones are not counted"
    ], "here, where somebody hears it"


def test_a_worker_counts_what_it_truncates():
    worker = object.__new__(cluster._Answers)
    worker.model, worker.batch_size = predictor(), 4
    rows = [["abcdefghijk", None], ["a", None], ["abcde", "fghijk"]]
    found = worker({"number": 3, "rows": json.dumps(rows)})
    assert (found["number"], found["cut"], found["error"], len(json.loads(found["said"]))) == (3, 2, "", 3)
