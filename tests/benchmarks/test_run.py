"""A model against a benchmark, from official files to official scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.benchmarks.run import benchmark, names


class Guess:
    """Answers by a word, as a model that calls its classes by other names."""

    model = None

    def __init__(self, labels: tuple[str, ...] | None = ("0", "1")) -> None:
        self.labels = labels

    def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
        if self.labels is None:
            return np.array([[float(len(t))] for t in texts])
        good = np.array([int("good" in t) for t in texts])
        return np.eye(len(self.labels))[good]


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    (folder / "dev.tsv").write_text("sentence\tlabel\na good film\t1\nbad\t0\ngood but bad\t0\nnothing\t0\n")
    (folder / "test.tsv").write_text("index\tsentence\n" + "".join(f"{i}\tgood {i}\n" for i in range(1821)))
    return tmp_path


def test_the_official_scores_of_the_official_files(sst2: Path) -> None:
    found = benchmark("GLUE/sst-2", Guess(), data=sst2)
    assert found == {
        "benchmark": "glue/SST-2", "part": "dev", "examples": 4, "scores": {"accuracy": 0.75}, "submission": None
    }  # fmt: skip
    assert benchmark("glue/SST-2", Guess(), data=sst2, part="test")["scores"] is None


def test_classes_by_other_names_are_said_once(sst2: Path) -> None:
    with pytest.raises(ValueError, match=r"the model answers with neg, pos; say .* as in --labels neg,pos"):
        benchmark("glue/SST-2", Guess(("neg", "pos")), data=sst2)
    assert (
        benchmark("glue/SST-2", Guess(("neg", "pos")), data=sst2, labels=("neg", "pos"))["scores"]["accuracy"] == 0.75
    )
    swapped = benchmark("glue/SST-2", Guess(("neg", "pos")), data=sst2, labels=("pos", "neg"))
    assert swapped["scores"]["accuracy"] == 0.25
    with pytest.raises(ValueError, match="1 labels, expected one for each of the classes 0, 1"):
        benchmark("glue/SST-2", Guess(), data=sst2, labels=("pos",))
    with pytest.raises(ValueError, match="the task has the classes 0, 1, but the model answers with a number"):
        benchmark("glue/SST-2", Guess(None), data=sst2)


def test_the_submission_is_the_official_file_and_never_replaced_unasked(sst2: Path, tmp_path: Path) -> None:
    found = benchmark("glue/SST-2", Guess(), data=sst2, submission=tmp_path / "out")
    lines = Path(found["submission"]).read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 1822 and lines[1] == "0\t1"
    asked: list[int] = []

    class Counted(Guess):
        def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
            asked.append(len(texts))
            return super().logits(texts, pairs, batch_size)

    with pytest.raises(ValueError, match="exists"):
        benchmark("glue/SST-2", Counted(), data=sst2, submission=tmp_path / "out")
    assert not asked, "known before anything is asked"
    benchmark("glue/SST-2", Guess(), data=sst2, submission=tmp_path / "out", replace=True)


def test_two_texts_and_a_class_of_superglue(tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    rows = [("good", "entailment"), ("bad", "not_entailment"), ("good", "not_entailment")]
    lines = [json.dumps({"premise": p, "hypothesis": "h", "label": c, "idx": i}) for i, (p, c) in enumerate(rows)]
    (tmp_path / "RTE" / "val.jsonl").write_text("\n".join(lines) + "\n")
    model = Guess(("not_entailment", "entailment"))
    found = benchmark("superglue/RTE", model, data=tmp_path)
    assert found["examples"] == 3 and found["scores"] == {"accuracy": pytest.approx(2 / 3)}


def test_intents_with_what_is_out_of_scope(tmp_path: Path) -> None:
    parts = {"train": [["good day", "b"], ["bad", "a"]], "val": [["bad", "a"]], "test": [["good", "b"], ["bad", "b"]]}
    parts |= {f"oos_{name}": [["what", "oos"]] for name in ("train", "val", "test")}
    (tmp_path / "data.json").write_text(json.dumps(parts))
    found = benchmark("clinc150", Guess(("a", "b", "oos")), data=tmp_path / "data.json")
    assert found["part"] == "test" and found["examples"] == 3 and found["scores"]["accuracy"] == pytest.approx(1 / 3)


def test_predictions_of_a_question_answering_system(tmp_path: Path) -> None:
    question = {"id": "q1", "question": "who?", "answers": [{"text": "the cat", "answer_start": 0}]}
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "the cat sat", "qas": [question]}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(data))
    (tmp_path / "said.json").write_text(json.dumps({"q1": "cat"}))
    found = benchmark("squad", tmp_path / "said.json", data=tmp_path / "dev.json")
    assert found["examples"] == 1 and found["scores"]["exact"] == 1
    (tmp_path / "nq.jsonl").write_text(json.dumps({"question": "who?", "answer": ["The cat"]}) + "\n")
    (tmp_path / "said.jsonl").write_text(json.dumps({"question": "who?", "prediction": "cat"}) + "\n")
    found = benchmark("efficientqa", tmp_path / "said.jsonl", data=tmp_path / "nq.jsonl")
    assert found["examples"] == 1 and found["scores"]["exact_match"] == 1


def test_options_without_a_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clinc150 has no use for --submission; leave it out"):
        benchmark("clinc150", Guess(), data=tmp_path, submission=tmp_path)
    with pytest.raises(ValueError, match="squad has no use for --labels; leave it out"):
        benchmark("squad", "said.json", data=tmp_path, labels=("a",))


def test_a_name_that_is_none() -> None:
    assert "superglue/COPA" not in names()
    assert {"glue/SST-2", "superglue/BoolQ", "elue/SST-2", "clinc150", "squad", "efficientqa"} <= set(names())
    with pytest.raises(ValueError, match=r"no benchmark 'glu'; expected one of glue/CoLA, "):
        benchmark("glu", Guess(), data=".")


ELUE = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not (ELUE / "elue_sst2").is_dir(), reason="needs ELUE's files in ../shared/data/elue_sst2")
def test_real_files_of_elue() -> None:
    found = benchmark("elue/SST-2", Guess(), data=ELUE / "elue_sst2")
    assert found["examples"] == 1101 and 0.4 < found["scores"]["accuracy"] < 0.7
