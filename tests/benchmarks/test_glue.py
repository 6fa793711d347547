import csv
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from gossamer.benchmarks import glue
from gossamer.benchmarks.glue import (
    AX,
    AX_LABELLED,
    COLA,
    HANS,
    MNLI_M,
    MNLI_MM,
    MRPC,
    QNLI,
    QQP,
    RTE,
    SST2,
    STSB,
    TASKS,
    WNLI,
    load,
    score,
    split,
    standing,
    submission,
    submit,
    two_classes,
)
from gossamer.data import Split

SHARED = Path(__file__).parents[3] / "shared" / "data"
MNLI_TRAIN = "index promptID pairID genre s1_binary s2_binary s1_parse s2_parse sentence1 sentence2 label1 gold_label"
MNLI_DEV = MNLI_TRAIN.replace("label1", "label1 label2 label3 label4 label5")
STSB_COLUMNS = "index genre filename year old_index source1 source2 sentence1 sentence2"

# Of each task: the header and one row of train, dev and test as the official files have them; what is read of it.
FILES = {
    COLA: {
        "CoLA/train.tsv": ["gj04\t1\t\tOur friends won't buy this."],
        "CoLA/dev.tsv": ["cj99\t0\t*\tAs you eat the most."],
        "CoLA/test.tsv": ["index\tsentence", "0\tBill whistled past the house."],
    },
    SST2: {
        "SST-2/train.tsv": ["sentence\tlabel", 'hide " new secretions \t0'],
        "SST-2/dev.tsv": ["sentence\tlabel", "it 's charming \t1"],
        "SST-2/test.tsv": ["index\tsentence", "0\tuneasy mishmash"],
    },
    MRPC: {
        "MRPC/train.tsv": [
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            '1\t7\t8\tHe said "yes.\t"Yes", he said.',
        ],
        "MRPC/dev.tsv": ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t9\t10\tOne.\tTwo."],
        "MRPC/test.tsv": ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\tThree.\tFour."],
    },
    QQP: {
        "QQP/train.tsv": [
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            "5\t1\t2\tWhy?\tHow?\t0",
            "6\t3\t4\tCut off",
        ],
        "QQP/dev.tsv": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\tWhy?\tWhy so?\t1"],
        "QQP/test.tsv": ["id\tquestion1\tquestion2", "0\tWho?\tWhom?"],
    },
    STSB: {
        "STS-B/train.tsv": [
            f"{STSB_COLUMNS} score".replace(" ", "\t"),
            "0\tg\tf\t2012\t1\tn\tn\tA plane.\tA jet.\t4.250",
        ],
        "STS-B/dev.tsv": [f"{STSB_COLUMNS} score".replace(" ", "\t"), "0\tg\tf\t2012\t1\tn\tn\tA man.\tA cat.\t0.000"],
        "STS-B/test.tsv": [STSB_COLUMNS.replace(" ", "\t"), "0\tg\tf\t2012\t1\tn\tn\tA girl.\tA boy."],
    },
    MNLI_M: {
        "MNLI/train.tsv": [
            MNLI_TRAIN.replace(" ", "\t"),
            "\t".join([*"01234567", "It is.", "It was.", "neutral", "neutral"]),
        ],
        "MNLI/dev_matched.tsv": [
            MNLI_DEV.replace(" ", "\t"),
            "\t".join([*"01234567", "Up.", "Down.", *["neutral"] * 5, "contradiction"]),
        ],
        "MNLI/test_matched.tsv": [MNLI_TRAIN[:-18].strip().replace(" ", "\t"), "\t".join([*"01234567", "In.", "Out."])],
    },
    QNLI: {
        "QNLI/train.tsv": ["index\tquestion\tsentence\tlabel", "0\tWhen?\tIn 1066.\tentailment"],
        "QNLI/dev.tsv": ["index\tquestion\tsentence\tlabel", "0\tWhere?\tHe did.\tnot_entailment"],
        "QNLI/test.tsv": ["index\tquestion\tsentence", "0\tWho?\tShe."],
    },
    RTE: {
        "RTE/train.tsv": ["index\tsentence1\tsentence2\tlabel", "0\tNo weapons.\tWeapons.\tnot_entailment"],
        "RTE/dev.tsv": ["index\tsentence1\tsentence2\tlabel", "0\tDana died.\tDana is dead.\tentailment"],
        "RTE/test.tsv": ["index\tsentence1\tsentence2", "0\tMangla.\tBan."],
    },
    WNLI: {
        "WNLI/train.tsv": ["index\tsentence1\tsentence2\tlabel", "0\tI stuck a pin.\tThe pin had a hole.\t1"],
        "WNLI/dev.tsv": ["index\tsentence1\tsentence2\tlabel", "0\tThe drain.\tThe hair.\t0"],
        "WNLI/test.tsv": ["index\tsentence1\tsentence2", "0\tMaude.\tDora."],
    },
}
READ = {
    COLA: (Split(("Our friends won't buy this.",), None, (1,)), Split(("As you eat the most.",), None, (0,))),
    SST2: (Split(('hide " new secretions ',), None, (0,)), Split(("it 's charming ",), None, (1,))),
    MRPC: (Split(('He said "yes.',), ('"Yes", he said.',), (1,)), Split(("One.",), ("Two.",), (0,))),
    QQP: (Split(("Why?",), ("How?",), (0,)), Split(("Why?",), ("Why so?",), (1,))),
    STSB: (Split(("A plane.",), ("A jet.",), (4.25,)), Split(("A man.",), ("A cat.",), (0.0,))),
    MNLI_M: (Split(("It is.",), ("It was.",), (1,)), Split(("Up.",), ("Down.",), (2,))),
    QNLI: (Split(("When?",), ("In 1066.",), (0,)), Split(("Where?",), ("He did.",), (1,))),
    RTE: (Split(("No weapons.",), ("Weapons.",), (1,)), Split(("Dana died.",), ("Dana is dead.",), (0,))),
    WNLI: (Split(("I stuck a pin.",), ("The pin had a hole.",), (1,)), Split(("The drain.",), ("The hair.",), (0,))),
}
by_name = pytest.mark.parametrize("task", FILES, ids=lambda task: task.name)


def put(folder, files, end="\n"):
    for place, lines in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + end for line in lines).encode())
    return folder


@by_name
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_official_files_are_read(tmp_path, task, end):
    put(tmp_path, FILES[task], end)
    data = load(task, tmp_path)
    assert (data.train, data.dev, data.test) == (*READ[task], None)
    assert (data.name, data.labels) == (task.name, task.labels)
    test = split(task, tmp_path, "test")
    assert len(test) == 1 and test.labels is None and (test.pairs is None) == (task.pair is None)
    own = tmp_path / next(iter(FILES[task])).split("/")[0]
    assert split(task, own, "test") == test  # the task's own folder will do


def test_cut_off_rows_of_qqp_are_left_out_aloud(tmp_path, caplog):
    put(tmp_path, FILES[QQP])
    with caplog.at_level(logging.WARNING):
        assert len(split(QQP, tmp_path, "train")) == 1
    assert "1 rows are cut off and left out, the first on line 3" in caplog.text


def test_only_a_line_feed_ends_a_row(tmp_path):
    put(tmp_path, {"SST-2/dev.tsv": ["sentence\tlabel", "a\u2028b\x0bc\rd\u0085e\t1", ""]})
    assert split(SST2, tmp_path, "dev").texts == ("a\u2028b\x0bc\rd\u0085e",)


def test_mismatched_is_the_same_training_file_and_another_dev(tmp_path):
    files = FILES[MNLI_M]
    put(tmp_path, files | {"MNLI/dev_mismatched.tsv": files["MNLI/dev_matched.tsv"]})
    assert load(MNLI_MM, tmp_path).splits == load(MNLI_M, tmp_path).splits


def test_the_diagnostic_set_has_a_test_only(tmp_path):
    put(
        tmp_path,
        {"diagnostic/diagnostic.tsv": ["index\tsentence1\tsentence2", "0\tThe cat sat.\tThe cat did not sit."]},
    )
    data = load(AX, tmp_path)
    assert data.test == Split(("The cat sat.",), ("The cat did not sit.",)) and data.train is None
    with pytest.raises(ValueError, match="AX has no part 'train'; expected 'test'"):
        split(AX, tmp_path, "train")
    header = "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel"
    put(
        tmp_path,
        {"diagnostic/diagnostic-full.tsv": [header, "\t\tNegation\t\tArtificial\tIt is.\tIt is not.\tcontradiction"]},
    )
    assert split(AX_LABELLED, tmp_path, "test") == Split(("It is.",), ("It is not.",), (2,))


def test_microsofts_own_files_are_cut_by_glues_ids(tmp_path, caplog):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = [f"{i % 2}\t{i}\t{i + 100}\tone {i}\ttwo {i}" for i in range(4)]
    put(tmp_path, {"msr_paraphrase_train.txt": [header, *rows], "msr_paraphrase_test.txt": [header, *rows[:1]]})
    assert len(split(MRPC, tmp_path, "train")) == 4 and "all of it is train" in caplog.text
    assert split(MRPC, tmp_path, "test").labels == (0,)
    with pytest.raises(
        FileNotFoundError, match=r"no dev of MRPC; expected dev\.tsv, or GLUE's dev_ids\.tsv or mrpc_dev"
    ):
        split(MRPC, tmp_path, "dev")
    put(tmp_path, {"dev_ids.tsv": ["2\t102", "0\t7"]})
    assert split(MRPC, tmp_path, "dev").texts == ("one 2",)
    assert split(MRPC, tmp_path, "train").texts == ("one 0", "one 1", "one 3")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'; expected the one that train of CoLA"):
        load(COLA, tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"has no dev of MNLI-mm; expected MNLI/dev_mismatched\.tsv or dev_mism"
    ):
        split(MNLI_MM, tmp_path, "dev")
    with pytest.raises(ValueError, match="SST-2 has no part 'valid'; expected 'train' or 'dev' or 'test'"):
        split(SST2, tmp_path, "valid")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["label\tcontent", "0\tbad"], r"dev\.tsv has no column 'sentence'; it has: 'label', 'content'"),
        (["index\tsentence", "0\tbad"], r"dev\.tsv has no column 'label'; it has: 'index', 'sentence'"),
        (
            ["sentence\tlabel", "good\t1", "bad\tx"],
            r"dev\.tsv, line 3, 'label': 'x', expected '0', '1' or their number",
        ),
        (
            ["sentence\tlabel", "good\t1", "bad"],
            r"dev\.tsv, line 3: fewer cells than 2, expected 'sentence', 'label'; 1 such",
        ),
        (["sentence\tlabel", "a\tb\t1"], r"dev\.tsv, line 2: 3 cells, expected 2: 'sentence', 'label'"),
        (["sentence\tlabel"], r"dev\.tsv has no rows"),
        ([], r"dev\.tsv has no rows"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path, lines, error):
    put(tmp_path, {"SST-2/dev.tsv": lines})
    with pytest.raises(ValueError, match=error):
        split(SST2, tmp_path, "dev")


def test_a_score_of_similarity_must_be_a_number(tmp_path):
    header, row = FILES[STSB]["STS-B/dev.tsv"]
    put(tmp_path, {"STS-B/dev.tsv": [header, row.replace("0.000", "nan")]})
    with pytest.raises(ValueError, match=r"dev\.tsv, line 2, 'score': 'nan', expected a number"):
        split(STSB, tmp_path, "dev")


def test_each_task_has_its_metrics():
    names = {task.name: [metric.__name__ for metric in task.metrics] for task in TASKS}
    assert names == {
        "CoLA": ["matthews"],
        **{name: ["accuracy"] for name in ("SST-2", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI")},
        **{name: ["accuracy", "f1"] for name in ("MRPC", "QQP")},
        "STS-B": ["pearson", "spearman"],
        "AX": ["matthews"],
    }
    assert score(MRPC, [1, 1, 0, 0], [1, 0, 0, 0]) == pytest.approx({"accuracy": 0.75, "f1": 2 / 3})
    assert score(MRPC, np.array(["1", "1", "0", "0"]), [True, False, False, 0]) == score(
        MRPC, [1, 1, 0, 0], [1, 0, 0, 0]
    )
    assert score(STSB, np.array([[1.0], [2], [4]]), [1, 2, 3])["spearman"] == 1
    assert score(RTE, ["entailment", "not_entailment"], [0, 0]) == {"accuracy": 0.5}
    with pytest.raises(
        ValueError, match="RTE, prediction 2: 2, expected 'entailment', 'not_entailment' or their number"
    ):
        score(RTE, [0, 2], [0, 0])
    with pytest.raises(ValueError, match="RTE, label 1: 'maybe'"):
        score(RTE, [0], ["maybe"])


def test_the_leaderboards_average():
    results = {task.name: {"accuracy": 0.5} for task in TASKS}
    results["MRPC"] = {"accuracy": 0.6, "f1": 0.8}  # 0.7
    results["MNLI-m"], results["MNLI-mm"] = {"accuracy": 0.8}, {"accuracy": 0.9}  # one task: 0.85
    results["AX"] = {"matthews": -1.0}  # does not count
    found = standing(results)
    assert found.average == pytest.approx((7 * 0.5 + 0.7 + 0.85) / 9)
    assert list(found.tasks) == ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI", "QNLI", "RTE", "WNLI"]
    results["WNLI"] = {"accuracy": 0.0}
    assert standing(results, without=["WNLI"]).average == pytest.approx((6 * 0.5 + 0.7 + 0.85) / 8)
    del results["MNLI-mm"]
    assert asdict(standing(results)) | {"tasks": 0} == {
        "average": None, "tasks": 0, "missing": ("MNLI-mm",), "without": ()
    }  # fmt: skip


def test_a_submission_has_the_names_of_classes():
    assert submission(replace(RTE, size=3), [1, "entailment", np.int64(0)]) == (
        "index\tprediction\n0\tnot_entailment\n1\tentailment\n2\tentailment\n"
    )
    assert submission(replace(COLA, size=2), np.array([1, 0])) == "index\tprediction\n0\t1\n1\t0\n"
    assert submission(replace(STSB, size=2), np.array([[4.5], [0.1]])) == "index\tprediction\n0\t4.5\n1\t0.1\n"
    with pytest.raises(ValueError, match="RTE: 2 predictions, expected 3000, one for each row of its test"):
        submission(RTE, [0, 1])
    with pytest.raises(ValueError, match="STS-B: 1 of 2 predictions are not numbers"):
        submission(replace(STSB, size=2), [1.0, float("nan")])


def test_a_submission_has_eleven_files_and_overwrites_none_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(glue, "TASKS", tuple(replace(task, size=2) for task in TASKS))
    predictions = {task.name: [0, 1] for task in TASKS}
    names = ["AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]
    assert sorted(path.stem for path in submit(predictions, tmp_path / "new")) == names
    assert (tmp_path / "new" / "AX.tsv").read_bytes() == b"index\tprediction\n0\tentailment\n1\tneutral\n"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{name}.tsv" for name in names]
    (tmp_path / "WNLI.tsv").write_text("mine")
    with pytest.raises(ValueError, match=r"WNLI\.tsv exists; choose another folder, or pass replace=True"):
        submit(predictions, tmp_path)
    assert [path.name for path in tmp_path.glob("*.tsv")] == ["WNLI.tsv"]  # none written before all are free
    submit(predictions, tmp_path, replace=True)
    assert (tmp_path / "WNLI.tsv").read_text() == "index\tprediction\n0\t0\n1\t1\n"
    del predictions["AX"]
    with pytest.raises(ValueError, match="missing: AX; unknown: HANS"):
        submit(predictions | {"HANS": [0]}, tmp_path / "other")


def test_hans_takes_neutral_and_contradiction_for_non_entailment(tmp_path):
    header = "gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1"
    header += " sentence2 pairID heuristic subcase template"
    rows = [f"{label} b b p p The_doctor. Doctor. ex{i} lexical_overlap ln temp" for i, label in
            enumerate(["non-entailment", "entailment", "non-entailment"])]  # fmt: skip
    lines = [line.replace(" ", "\t") for line in (header, *rows)]
    put(tmp_path, {"heuristics_evaluation_set.txt": lines})
    test = load(HANS, tmp_path).test
    assert test.labels == (1, 0, 1)
    said = two_classes([2, 1, 0])  # contradiction, neutral, entailment
    assert said == ["non-entailment", "non-entailment", "entailment"]
    assert score(HANS, said, test.labels) == {"accuracy": pytest.approx(1 / 3)}
    assert two_classes([2], ("contradiction", "neutral", "entailment")) == ["entailment"]
    with pytest.raises(ValueError, match="HANS, prediction 1: 3, expected 'entailment', 'neutral', 'contradiction'"):
        two_classes([3])


def shared(name):
    folder = SHARED / name
    return pytest.param(folder, marks=pytest.mark.skipif(not folder.is_dir(), reason=f"needs ../shared/data/{name}"))


@pytest.mark.parametrize("folder", [shared("cola")])
def test_the_real_cola_is_read_whole(folder):
    data = load(COLA, folder)
    assert (len(data.train), len(data.dev)) == (8551, 527)
    assert data.dev.texts[4] == "As you eat the most, you want the least." and data.dev.labels[4] == 0
    assert sum(data.train.labels) == 6023  # 70.4 % are acceptable
    assert score(COLA, data.dev.labels, data.dev.labels) == {"matthews": pytest.approx(1)}


@pytest.mark.parametrize("folder", [shared("mrpc")])
def test_the_real_mrpc_is_read_whole(folder):
    data = load(MRPC, folder, need=("train", "test"))
    assert (len(data.train), len(data.test)) == (4076, 1725)
    everything = score(MRPC, [1] * 1725, data.test.labels)
    assert everything == pytest.approx({"accuracy": 0.6649, "f1": 0.7987}, abs=1e-4)  # the published majority baseline
    assert '"the witness"' in data.train.texts[0] and not data.train.texts[0].startswith('"')


@pytest.mark.parametrize("folder", [shared("sst2_glue")])
def test_the_real_sst2_is_read_whole_and_its_renamed_dev_refused_by_name(folder):
    train = split(SST2, folder, "train")
    assert len(train) == 67349 and train.texts[0] == "hide new secretions from the parental units"
    with pytest.raises(ValueError, match=r"dev\.tsv has no column 'sentence'; it has: 'label', 'content'"):
        split(SST2, folder, "dev")
    assert len(split(replace(SST2, text="content"), folder, "dev")) == 872
    assert len(split(replace(SST2, text="content"), folder, "test")) == SST2.size


@pytest.mark.parametrize("folder", [shared("stsb")])
def test_real_pairs_of_stsb_survive_the_official_layout(folder, tmp_path):
    with (folder / "stsb-en-test.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row]
    assert len(rows) == STSB.size
    lines = [f"{STSB_COLUMNS} score".replace(" ", "\t")]
    lines += ["\t".join([str(i), *["-"] * 6, *row]) for i, row in enumerate(rows)]
    put(tmp_path, {"STS-B/dev.tsv": lines})
    dev = split(STSB, tmp_path, "dev")
    assert [list(row) for row in zip(dev.texts, dev.pairs, strict=True)] == [row[:2] for row in rows]
    stats = pytest.importorskip("scipy.stats")
    lengths = [float(abs(len(a) - len(b))) for a, b in zip(dev.texts, dev.pairs, strict=True)]  # with many ties
    assert score(STSB, lengths, dev.labels) == pytest.approx(
        {
            "pearson": stats.pearsonr(lengths, dev.labels).statistic,
            "spearman": stats.spearmanr(lengths, dev.labels).statistic,
        },
        abs=1e-6,
    )
