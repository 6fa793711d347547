"""The average over a folder of artefacts, or of results."""

import json
from pathlib import Path
from typing import Any

import pytest

from gossamer.benchmarks import glue
from gossamer.benchmarks.run import benchmark
from tests.task import worlds

WITHOUT = tuple(name for name in glue.AVERAGED if name not in ("SST-2", "RTE"))


def result(folder: Path, name: str, part: str = "dev", **scores: float) -> None:
    told = {"benchmark": f"glue/{name}", "part": part, "examples": 4, "scores": scores, "submission": None}
    (folder / f"{name}.json").write_text(json.dumps(told))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for number, task in enumerate(glue.TASKS):
        if task is not glue.AX:
            result(folder, task.name, **{metric.__name__: 0.05 * number for metric in task.metrics})
    return folder


def test_results_make_the_official_average(results: Path) -> None:
    found = benchmark("glue", results)
    each = {task.name: 0.05 * number for number, task in enumerate(glue.TASKS)}
    single = [each[name] for name in ("CoLA", "SST-2", "MRPC", "QQP", "STS-B", "QNLI", "RTE", "WNLI")]
    average = (sum(single) + (each["MNLI-m"] + each["MNLI-mm"]) / 2) / 9  # MNLI's parts are one task
    assert found["scores"]["average"] == pytest.approx(average)
    assert found["scores"]["MNLI"] == pytest.approx((each["MNLI-m"] + each["MNLI-mm"]) / 2)
    assert (found["part"], found["examples"], found["scores"]["missing"]) == ("dev", 40, [])
    less = benchmark("glue", results, without=("WNLI",))
    assert less["scores"]["average"] == pytest.approx((9 * average - each["WNLI"]) / 8)
    assert less["scores"]["without"] == ["WNLI"] and "WNLI" not in less["tasks"]


def test_a_task_that_is_missing_leaves_no_average(results: Path) -> None:
    (results / "MNLI-mm.json").unlink()
    found = benchmark("glue", results)
    assert found["scores"]["average"] is None and found["scores"]["missing"] == ["MNLI-mm"]
    assert "MNLI" not in found["scores"] and "SST-2" in found["scores"]


def test_results_that_make_no_average(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'WNL' is no task"):
        benchmark("glue", results, without=("WNL",))
    with pytest.raises(FileNotFoundError, match=r"no folder '.*none'; expected one with an artefact or a result"):
        benchmark("glue", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has nothing for a task of superglue; expected artefacts called BoolQ"):
        (tmp_path / "empty").mkdir()
        benchmark("superglue", tmp_path / "empty")
    with pytest.raises(ValueError, match="expected test for all"):
        benchmark("glue", results, part="test")
    with pytest.raises(ValueError, match=r"a submission to glue has all its files, and .* no artefact for CoLA, SST-2"):
        benchmark("glue", results, submission=tmp_path / "out")
    result(results, "RTE", part="train", accuracy=0.5)
    with pytest.raises(
        ValueError, match=r"different parts make no average: .*SST-2 of dev.*RTE of train.*one part for"
    ):
        benchmark("glue", results)
    (results / "SST-2.json").write_text((results / "CoLA.json").read_text())
    with pytest.raises(ValueError, match=r"SST-2\.json is a result of glue/CoLA, expected one of glue/SST-2"):
        benchmark("glue", results)
    (results / "SST-2.json").write_text('{"benchmark": "glue/SST-2", "part": "dev", "examples": 1, "scores": [1]}')
    with pytest.raises(ValueError, match=r"SST-2\.json: 'scores' is a list"):
        benchmark("glue", results)


def test_artefacts_and_results_together(tmp_path: Path) -> None:
    made: Any = worlds.world("text-classification", tmp_path / "w")
    made.model.config.id2label = {0: "0", 1: "1"}
    made.model.save_pretrained(tmp_path / "runs" / "SST-2")
    made.tokenizer.save_pretrained(tmp_path / "runs" / "SST-2")
    result(tmp_path / "runs", "RTE", accuracy=1.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.tsv").write_text("sentence\tlabel\nw10 w20\t1\nw11 w33\t0\nw15\t0\n")
    found = benchmark("glue", tmp_path / "runs", data=tmp_path / "data", without=WITHOUT)
    alone = benchmark("glue/SST-2", tmp_path / "runs" / "SST-2", data=tmp_path / "data")
    assert found["tasks"]["SST-2"] == alone and found["examples"] == 7
    assert found["scores"]["average"] == pytest.approx((1 + alone["scores"]["accuracy"]) / 2)
    with pytest.raises(ValueError, match="glue/SST-2 is scored on its official files; say where they are with --data"):
        benchmark("glue", tmp_path / "runs", without=WITHOUT)
