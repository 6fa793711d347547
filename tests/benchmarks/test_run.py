"""A model against a benchmark, from official files to official scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.benchmarks import elue
from gossamer.benchmarks.run import benchmark, names
from gossamer.engines import load
from gossamer.task import QuestionAnswering
from tests.task import worlds


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
    for order in (("neg", "pos"), ("pos", "neg")):  # the hint is the same: no order of it can be copied
        with pytest.raises(
            ValueError,
            match=r"the model answers with neg, pos \(by alphabet, which tells nothing of which is which\); look up "
            r'what each means and say it as --labels "<its name for 0>,<its name for 1>"',
        ):
            benchmark("glue/SST-2", Guess(order), data=sst2)
    for wrong in (("neg", "neg"), ("neg", "good")):
        with pytest.raises(ValueError, match=f"found --labels {','.join(wrong)}, expected different ones"):
            benchmark("glue/SST-2", Guess(("neg", "pos")), data=sst2, labels=wrong)
    with pytest.raises(ValueError, match="found --labels a,b, expected different ones of the model's"):
        benchmark("glue/SST-2", Guess(("LABEL_0", "LABEL_1")), data=sst2, labels=("a", "b"))
    assert benchmark("glue/SST-2", Guess(("LABEL_0", "LABEL_1")), data=sst2)["scores"]["accuracy"] == 0.75
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


RECORDS = {
    "COPA": [
        {"premise": "It was wet.", "question": q, "choice1": a, "choice2": b, "label": right, "idx": i}
        for i, (q, a, b, right) in enumerate(
            [("cause", "good rain", "sun", 0), ("effect", "sun", "a good bath", 1), ("cause", "a", "b", 1)]
        )
    ],
    "WiC": [
        {"word": "place", "sentence1": "my place", "sentence2": f"{other} place", "start1": 3, "end1": 8, "idx": i,
         "start2": len(other) + 1, "end2": len(other) + 6, "label": same}
        for i, (other, same) in enumerate([("good", False), ("no", False)])
    ],
    "WSC": [
        {"text": "Ann saw him and he left good Bob", "idx": 0, "label": True,
         "target": {"span1_text": "Bob", "span2_text": "he", "span1_index": 7, "span2_index": 4}}
    ],
    "ReCoRD": [
        {"idx": 0, "passage": {"text": "bad Ann and good Bob", "entities": [{"start": 4, "end": 6},
                                                                            {"start": 12, "end": 19}]},
         "qas": [{"query": "@placeholder left", "idx": 9,
                  "answers": [{"start": 12, "end": 19, "text": "good Bob"}]}]}
    ],
}  # fmt: skip


class Pairs(Guess):
    """Looks for the word in the second text; `number`: answers with one."""

    def __init__(self, labels: tuple[str, ...] | None = ("0", "1"), words: str = "good") -> None:
        super().__init__(labels)
        self.words, self.asked = words, list[tuple[str, str]]()

    def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
        self.asked += zip(texts, pairs, strict=True)
        return super().logits(pairs, None, batch_size)


def superglue_files(folder: Path, part: str = "val") -> Path:
    for name, records in RECORDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


def test_choices_are_asked_one_by_one_as_pairs(tmp_path: Path) -> None:
    superglue_files(tmp_path)
    for labels in (("0", "1"), ("1", "0")):
        model = Pairs(labels)
        found = benchmark("superglue/COPA", model, data=tmp_path)
        assert found["examples"] == 3 and model.asked[2] == ("It was wet. What happened as a result?", "sun")
        # of the third row's choices neither has the word: the first of equals is taken
        assert found["scores"]["accuracy"] == pytest.approx(2 / 3 if labels[0] == "0" else 0)
    named = benchmark("superglue/COPA", Pairs(("wrong", "right")), data=tmp_path, labels=("wrong", "right"))
    assert named["scores"]["accuracy"] == pytest.approx(2 / 3)
    assert benchmark("superglue/ReCoRD", Pairs(), data=tmp_path)["scores"] == {"exact": 1, "f1": 1}
    number = benchmark("superglue/ReCoRD", Pairs(None), data=tmp_path)  # the longer text, for this one
    assert number["scores"]["exact"] == 1
    with pytest.raises(ValueError, match="the task has the classes 0, 1 and the model answers with neg, pos"):
        benchmark("superglue/COPA", Pairs(("neg", "pos")), data=tmp_path)


def test_senses_and_mentions_as_pairs(tmp_path: Path) -> None:
    superglue_files(tmp_path)
    model = Pairs(("false", "true"))
    found = benchmark("superglue/WiC", model, data=tmp_path)
    assert model.asked[0] == ("place: my place", "good place") and found["scores"] == {"accuracy": 0.5}
    assert found["how"] == "a pair: the word, a colon and the first sentence; the second sentence"
    model = Pairs(("false", "true"))
    assert benchmark("superglue/WSC", model, data=tmp_path)["scores"] == {"accuracy": 0.0}
    assert model.asked == [("Ann saw him and *he* left good Bob", "Bob")]


def test_submissions_of_choices(tmp_path: Path) -> None:
    superglue_files(tmp_path)
    superglue_files(tmp_path, "test")  # with labels, but nobody looks
    benchmark("superglue/COPA", Pairs(), data=tmp_path, submission=tmp_path / "out")
    benchmark("superglue/ReCoRD", Pairs(), data=tmp_path, submission=tmp_path / "out")
    lines = (tmp_path / "out" / "COPA.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"idx": i, "label": one} for i, one in enumerate((0, 1, 0))]
    assert json.loads((tmp_path / "out" / "ReCoRD.jsonl").read_text()) == {"idx": 9, "label": "good Bob"}


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


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b'{"q1": null}', r"said\.json: the answer to 'q1' is nothing \(null\), expected a text, \"\" for none"),
        (b'{"q1": 3}', r"said\.json: the answer to 'q1' is a number \(3\), expected a text"),
        (b'["cat"]', r"said\.json: a list .*expected one object, a question's id and its text in each entry"),
        (b"cat", r"said\.json: not JSON"),
        (b"\xff\xfe{", r"said\.json is UTF-16, expected UTF-8"),
    ],
)
def test_broken_predictions_are_refused_by_name(tmp_path: Path, text: bytes, error: str) -> None:
    (tmp_path / "said.json").write_bytes(text)
    with pytest.raises(ValueError, match=error):
        benchmark("squad", tmp_path / "said.json", data=squad_file(tmp_path, ASKED))


def test_a_mark_of_byte_order_and_no_answer_probabilities(tmp_path: Path) -> None:
    data, said, doubts = squad_file(tmp_path, ASKED), tmp_path / "said.json", tmp_path / "said_na_probs.json"
    said.write_bytes(b'\xef\xbb\xbf{"q1": "the cat"}')
    assert benchmark("squad", said, data=data)["scores"]["exact"] == 1
    doubts.write_text('{"q1": 0.25}')
    assert benchmark("squad", said, data=data)["scores"]["best_exact"] == {"score": 1.0, "threshold": 0.25}
    doubts.write_text('{"q1": "no"}')
    with pytest.raises(ValueError, match=r"said_na_probs\.json: the no-answer probability of 'q1' is .*no"):
        benchmark("squad", said, data=data)
    with pytest.raises(ValueError, match=r"said\.json is already what the leaderboard takes; leave --submission out"):
        benchmark("squad", said, data=data, submission=tmp_path)
    with pytest.raises(FileNotFoundError, match="expected the folder of a model, or a JSON file of predictions"):
        benchmark("squad", tmp_path / "none", data=data)


class Finder:
    """Finds the first word of each context; nothing, where it may and the question has a 'not'."""

    def __init__(self, nothing: bool = False) -> None:
        self.task = QuestionAnswering(nothing=nothing)

    def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
        none = {"answer": "", "start": -1, "score": 0.0}
        return [
            none if self.task.nothing and "not" in text else {"answer": pair.split()[0], "start": 0, "score": 1.0}
            for text, pair in zip(texts, pairs, strict=True)
        ]


ASKED = {"id": "q1", "question": "who sat?", "answers": [{"text": "cat", "answer_start": 0}]}
NOBODY = {"id": "q2", "question": "who did not?", "answers": [], "is_impossible": True}


def squad_file(folder: Path, *questions: dict[str, Any], name: str = "dev-v2.0.json") -> Path:
    paragraph = {"context": "cat sat here", "qas": list(questions)}
    (folder / name).write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}))
    return folder / name


def test_a_model_of_question_answering(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    squad_file(tmp_path, ASKED, NOBODY)
    found = benchmark("squad", Finder(nothing=True), data=tmp_path, submission=tmp_path / "out")
    assert (found["part"], found["examples"], found["scores"]["exact"]) == ("dev-v2.0", 2, 1.0)
    written = tmp_path / "out" / "predictions.json"
    assert found["submission"] == str(written) and json.loads(written.read_text()) == {"q1": "cat", "q2": ""}
    assert benchmark("squad", written, data=tmp_path)["scores"] == found["scores"], "what was written scores the same"
    with pytest.raises(ValueError, match="exists"):
        benchmark("squad", Finder(), data=tmp_path, submission=tmp_path / "out")
    assert not caplog.records
    assert benchmark("squad", Finder(), data=tmp_path)["scores"]["no_answer"]["exact"] == 0
    assert "1 of 2 questions have no answer, and the model always gives one" in caplog.text
    with pytest.raises(ValueError, match="the model was made for something else, expected question-answering"):
        benchmark("squad", Guess(), data=tmp_path)
    with pytest.raises(ValueError, match="the model was made for question-answering"):
        (tmp_path / "STS-B").mkdir()
        (tmp_path / "STS-B" / "dev.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\n")
        benchmark("glue/STS-B", Finder(), data=tmp_path)


def test_which_file_of_squad(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no dev of SQuAD; expected dev-v1\.1\.json or dev-v2\.0\.json"):
        benchmark("squad", Finder(), data=tmp_path)
    squad_file(tmp_path, ASKED, name="dev-v1.1.json")
    assert benchmark("squad", Finder(), data=tmp_path)["part"] == "dev-v1.1"
    squad_file(tmp_path, ASKED)
    with pytest.raises(ValueError, match=r"has dev-v1\.1\.json and dev-v2\.0\.json; say which with --data "):
        benchmark("squad", Finder(), data=tmp_path)
    hidden = squad_file(tmp_path, {"id": "q1", "question": "who?"}, name="test.json")
    assert benchmark("squad", Finder(), data=hidden)["scores"] is None, "nothing is known of what is right"


def test_a_plain_folder_answers_as_its_predictor_does(tmp_path: Path) -> None:
    made = worlds.world("question-answering", tmp_path / "w")
    folder = tmp_path / "w" / "model"
    split = made.data.test
    assert split is not None and split.pairs is not None and split.labels is not None
    qas = [
        {"id": f"q{i}", "question": text, "answers": [{"text": t, "answer_start": s} for t, s in label],
         "is_impossible": not label, "context": pair}
        for i, (text, pair, label) in enumerate(zip(split.texts, split.pairs, split.labels, strict=True))
    ]  # fmt: skip
    articles = [{"title": "t", "paragraphs": [{"context": one.pop("context"), "qas": [one]}]} for one in qas]
    (tmp_path / "dev-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    found = benchmark("squad", folder, data=tmp_path, submission=tmp_path / "out")
    direct = load(folder)(list(split.texts), list(split.pairs))
    said = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(said.values()) == [one["answer"] for one in direct]
    assert found["scores"]["f1"] == pytest.approx(made.task.score(direct, split.labels))
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("handle_impossible_answer") is True
    (folder / "config.json").write_text(json.dumps(config))  # as other tools write it
    assert load(folder).task == QuestionAnswering(nothing=False)
    assert benchmark("squad", folder, data=tmp_path)["scores"] == found["scores"], "the file says that none may be"


def test_a_bad_label_in_train_does_not_cost_dev(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n")
    (tmp_path / "train.tsv").write_text("sentence\tlabel\ngood\t-\n")
    assert benchmark("elue/SST-2", Guess(), data=tmp_path)["scores"]["accuracy"] == 1
    with pytest.raises(ValueError, match=r"train\.tsv, line 2: the label '-'"):
        benchmark("elue/SST-2", Guess(), data=tmp_path, part="train")
    with pytest.raises(FileNotFoundError, match=r"has no test of SST-2 of ELUE; expected SST-2/test_full\.tsv or"):
        benchmark("elue/SST-2", Guess(), data=tmp_path, part="test")
    with pytest.raises(ValueError, match="SST-2 has no part 'val'; expected 'train', 'dev', 'test'"):
        benchmark("elue/SST-2", Guess(), data=tmp_path, part="val")


def test_a_submission_to_elue_declares_what_the_curve_counts(tmp_path: Path) -> None:
    made = worlds.world("text-classification", tmp_path / "w", layers=4)
    lines = [f"{i}\tw{10 + i % 80} w20 w30" for i in range(2210)]  # 5 tokens each
    (tmp_path / "test.tsv").write_text("index\tsentence\n" + "\n".join(lines) + "\n")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nw10\t1\nw11\t0\n")
    found = benchmark(
        "elue/SST-2", tmp_path / "w" / "model", data=tmp_path, labels=("no", "yes"), submission=tmp_path / "out"
    )
    assert found["submission"] == str(tmp_path / "out" / "sst-2.tsv")
    [declared] = json.loads((tmp_path / "out" / "declared.json").read_text())
    encoder = elue.Encoder(layers=4, width=32, inner=64, heads=4, size=8)
    assert declared["mflops"] * 1e6 == pytest.approx(elue.costs(encoder, 5)[-1])
    assert declared["mparams"] * 1e6 == pytest.approx(sum(p.numel() for p in made.model.parameters()))


def test_options_without_a_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clinc150 has no use for --submission; leave it out"):
        benchmark("clinc150", Guess(), data=tmp_path, submission=tmp_path)
    with pytest.raises(ValueError, match="squad has no use for --labels; leave it out"):
        benchmark("squad", "said.json", data=tmp_path, labels=("a",))
    with pytest.raises(ValueError, match="glue/RTE has no use for --without; leave it out"):
        benchmark("glue/RTE", Guess(), data=tmp_path, without=("WNLI",))
    with pytest.raises(ValueError, match="glue/RTE is scored on its official files; say where they are with --data"):
        benchmark("glue/RTE", Guess())


def test_a_name_that_is_none() -> None:
    assert {
        "glue/SST-2",
        "glue",
        "superglue/COPA",
        "retrieval",
        "sts",
        "sustainlp",
        "elue/SST-2",
        "clinc150",
        "squad",
        "efficientqa",
    } <= set(names())
    with pytest.raises(ValueError, match=r"no benchmark 'glu'; expected one of glue/CoLA, "):
        benchmark("glu", Guess(), data=".")


ELUE = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not (ELUE / "elue_sst2").is_dir(), reason="needs ELUE's files in ../shared/data/elue_sst2")
def test_real_files_of_elue() -> None:
    found = benchmark("elue/SST-2", Guess(), data=ELUE / "elue_sst2")
    assert found["examples"] == 1101 and 0.4 < found["scores"]["accuracy"] < 0.7
