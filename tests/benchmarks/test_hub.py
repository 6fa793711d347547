"""The same examples from the hub as from the official files; `datasets` is played by a stand-in."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.benchmarks import glue, hub, superglue
from gossamer.benchmarks.run import benchmark
from gossamer.task import QuestionAnswering
from tests.online import Table
from tests.online import hub as hub_of


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda answer: hub_of(monkeypatch, answer)


class Guess:
    labels = ("0", "1")
    task = QuestionAnswering(nothing=True)

    def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
        if pairs is not None:
            return [
                {"answer": pair.split()[0] if "who" in text else ""} for text, pair in zip(texts, pairs, strict=True)
            ]
        return np.eye(2)[[int("good" in text) for text in texts]]


def test_a_task_of_glue(online: Any) -> None:
    rows = [{"sentence": "good", "label": 1, "idx": 0}, {"sentence": "bad", "label": 1, "idx": 1}]
    test = [{"sentence": "good", "label": -1, "idx": 0}]
    asked = online({"validation": Table(rows, ["negative", "positive"]), "test": Table(test, ["negative", "positive"])})
    found = benchmark("glue/SST-2", Guess(), data="nyu-mll/glue")
    assert asked == [("nyu-mll/glue", "sst2")]
    assert (found["part"], found["examples"], found["scores"]) == ("dev", 2, {"accuracy": 0.5})
    assert benchmark("glue/SST-2", Guess(), data="nyu-mll/glue", part="test")["scores"] is None


def test_classes_go_by_name_where_the_names_are_the_tasks(online: Any) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": 0}, {"premise": "c", "hypothesis": "d", "label": 2}]
    asked = online({"validation_mismatched": Table(rows, ["neutral", "contradiction", "entailment"])})
    split = hub.glue(glue.MNLI_MM, "nyu-mll/glue", "dev")
    assert (split.texts, split.pairs, split.labels) == (("a", "c"), ("b", "d"), (1, 0)) and asked[0][1] == "mnli"
    with pytest.raises(ValueError, match="has the splits validation_mismatched; expected validation_matched"):
        hub.glue(glue.MNLI_M, "nyu-mll/glue", "dev")
    online({"validation": Table([{"sentence1": "a", "sentence2": "b", "label": 2.5}])})
    assert hub.glue(glue.STSB, "nyu-mll/glue", "dev").labels == (2.5,)
    with pytest.raises(ValueError, match=r"nyu-mll/glue validation: the label 2\.5, expected 0 to 1"):
        hub.glue(glue.RTE, "nyu-mll/glue", "dev")
    with pytest.raises(ValueError, match="validation has no column 'sentence'; it has: 'sentence1', 'sentence2'"):
        hub.glue(glue.SST2, "nyu-mll/glue", "dev")
    assert {task.name for task in glue.TASKS} == set(hub.GLUE)


def test_tasks_of_superglue(online: Any) -> None:
    rows = [
        {"question": "good", "passage": "p", "idx": 0, "label": 1},
        {"question": "bad", "passage": "p", "idx": 1, "label": 1},
    ]
    asked = online({"validation": Table(rows, ["False", "True"])})
    [first, second] = hub.superglue(superglue.BOOLQ, "aps/super_glue", "dev")
    assert asked == [("aps/super_glue", "boolq")]
    assert (first.text, first.pair, first.label, second.idx) == ("good", "p", 1, 1)
    choice = {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "idx": 0, "label": 1}
    online({"validation": Table([choice], ["choice1", "choice2"]), "test": Table([choice | {"label": -1}])})
    assert hub.superglue(superglue.COPA, "aps/super_glue", "dev")[0].label == 1
    assert hub.superglue(superglue.COPA, "aps/super_glue", "test")[0].label is None
    mention = {"text": "He saw him", "span1_index": 0, "span1_text": "He", "span2_index": 2, "span2_text": "him"}
    online({"validation": Table([mention | {"idx": 3, "label": 0}], ["False", "True"])})
    [row] = hub.superglue(superglue.WSC, "aps/super_glue", "dev")
    assert (row.idx, row.label) == (3, 0)
    with pytest.raises(ValueError, match="ReCoRD is not read from the hub; give the folder of its official files"):
        hub.superglue(superglue.RECORD, "aps/super_glue", "dev")


def test_squad(online: Any) -> None:
    def row(name: str, question: str, *texts: str) -> dict[str, Any]:
        answers = {"text": list(texts), "answer_start": [0] * len(texts)}
        return {"id": name, "title": "t", "context": "cat sat", "question": question, "answers": answers}

    asked = online({"validation": Table([row("q1", "who?", "cat"), row("q2", "what?")])})
    found = benchmark("squad", Guess(), data="rajpurkar/squad_v2")
    assert asked == [("rajpurkar/squad_v2", None)]
    assert (found["part"], found["examples"], found["scores"]["exact"]) == ("rajpurkar/squad_v2", 2, 1)
    assert found["scores"]["no_answer"]["n"] == 1


def test_without_a_reader_a_network_or_an_id(monkeypatch: pytest.MonkeyPatch, online: Any, tmp_path: Path) -> None:
    online(ConnectionError("no network"))
    with pytest.raises(ValueError, match="no file or folder 'owner/name', and the hub answered: no network"):
        benchmark("squad", Guess(), data="owner/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'no file or folder .* its reader is missing: pip install "gossamer\[hub\]"'):
        benchmark("glue/RTE", Guess(), data="owner/name")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)  # what is there is meant
    for here in ("owner/name", str(tmp_path / "none"), "none", "../x/y"):
        with pytest.raises(FileNotFoundError, match=r"SST-2|no folder"):
            benchmark("glue/SST-2", Guess(), data=here)
    with pytest.raises(FileNotFoundError, match="no folder"):
        benchmark("elue/SST-2", Guess(), data="owner/nothing")
