"""ELUE: official files, its FLOPs, baselines from any model with exits, both kinds of submission."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.benchmarks import elue
from gossamer.benchmarks.elue import IMDB, MRPC, SCITAIL, SNLI, SST2, STSB, TASKS, Encoder, Run
from gossamer.measure.curves import Elue, Point
from gossamer.measure.curves import elue as elue_score

REAL = Path(__file__).parents[3] / "shared" / "data"
BERT = Encoder()
SMALL = replace(SST2, size=3)


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.tsv").write_bytes(text.encode())
    return folder


def test_sentences_with_labels_and_a_test_without(tmp_path):
    folder = write(
        tmp_path / "SST-2", train="sentence\tlabel\nfine .\t1\nbad .\t0\n", dev="sentence\tlabel\n`` so '' so\t0\n",
        test="index\tsentence\n0\tbetter\n1\tworse\n",
    )  # fmt: skip
    data = elue.load(SST2, folder)
    assert data == elue.load(SST2, tmp_path)  # the folder of all tasks
    assert data.labels == ("0", "1") and data.train.labels == (1, 0) and data.train.pairs is None
    assert data.dev.texts == ("`` so '' so",) and data.test.texts == ("better", "worse") and data.test.labels is None
    write(folder, test_full="sentence\tlabel\nbetter\t1\nworse\t0\n")
    assert elue.load(SST2, folder).test.labels == (1, 0)


def test_a_mark_of_byte_order_windows_lines_and_parts_that_are_not_there(tmp_path):
    folder = write(tmp_path / "x", dev="\ufeffpremise\thypothesis\tlabel\r\nTwo women .\tA man .\t2\r\nA .\tB .\t1\r\n")
    data = elue.load(SNLI, folder)
    assert data.train is None and data.test is None
    assert data.dev.pairs == ("A man .", "B .") and [data.labels[i] for i in data.dev.labels] == [
        "contradiction",
        "neutral",
    ]


def test_quotes_are_read_as_what_was_meant(tmp_path):
    plain = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tHe " said\t" No .\n0\t1\t2\t" All of it . "\td\n'
    of_csv = (
        'label\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t-\t-\t"He "" said"\t""" No ."\n0\t-\t-\t""" All of it . """\td\n'
    )
    data = elue.load(MRPC, write(tmp_path / "x", dev=plain, test_full=of_csv))
    assert (data.dev.texts, data.dev.pairs) == (('He " said', '" All of it . "'), ('" No .', "d"))
    assert (data.test.texts, data.test.pairs) == (data.dev.texts, data.dev.pairs)
    twice = 'sentence1\tsentence2\tlabel\n"""A """"b"""" c."""\t"""""""D,"""" he said."""\t1\n'
    data = elue.load(STSB, write(tmp_path / "y", test_full=twice))
    assert (data.test.texts, data.test.pairs) == (('A "b" c.',), ('"D," he said.',))


def test_similarities_are_numbers(tmp_path):
    data = elue.load(STSB, write(tmp_path / "x", train='sentence1\tsentence2\tlabel\n"A ""b"""\tC\t4.750\nD\tE\t0\n'))
    assert data.labels is None and data.train.labels == (4.75, 0.0) and data.train.texts == ('A "b"', "D")


@pytest.mark.parametrize(
    ("task", "text", "words"),
    [
        (SST2, "sentence\tlabel\ngood\t2\n", r"train.tsv, line 2: the label '2', expected 0 to 1 \(0, 1\)"),
        (
            SNLI,
            "premise\thypothesis\tlabel\na\tb\tx\n",
            r"the label 'x', expected 0 to 2 \(entailment, neutral, contrad",
        ),
        (STSB, "sentence1\tsentence2\tlabel\na\tb\tnan\n", "the label 'nan', expected a number"),
        (SST2, "sentence\tgold\ngood\t1\n", "has no column label or Quality; it has: sentence, gold"),
        (SNLI, "premise\tlabel\na\t1\n", "has no column 'hypothesis'"),
        (SST2, "text\tlabel\na\t1\n", "has no column 'sentence'"),
        (SST2, "sentence\tlabel\n", "has no rows; expected one example per line"),
        (SST2, "sentence\tlabel\na\t1\nb\n", "line 3: fewer cells than the header"),
    ],
)
def test_files_that_are_not_official_are_refused(tmp_path, task, text, words):
    with pytest.raises(ValueError, match=words):
        elue.load(task, write(tmp_path / "x", train=text))


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"SNLI of ELUE; expected train.tsv or dev.tsv or test_full.tsv"):
        elue.load(SNLI, tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        elue.load(SNLI, tmp_path / "none")


@pytest.mark.parametrize(
    ("task", "folder", "sizes"),
    [
        (SST2, "elue_sst2", {"train": 8544, "dev": 1101, "test": 2210}),
        (MRPC, "elue_mrpc", {"train": 3668, "dev": 408, "test": 1725}),
        (STSB, "elue_stsb", {"train": 5749, "dev": 1500, "test": 1379}),
        (SNLI, "elue_snli", {"dev": 9842, "test": 9824}),
        (SCITAIL, "elue_scitail", {"dev": 1304, "test": 2126}),
    ],
)
def test_the_real_files(task, folder, sizes, tmp_path):
    if not (REAL / folder).is_dir():
        pytest.skip(f"{REAL / folder} is not here")
    data = elue.load(task, REAL / folder)
    assert {name: len(split) for name, split in data.splits.items()} == sizes and sizes["test"] == task.size
    assert (data.test.pairs is None) == (task is SST2)
    assert all(isinstance(label, float if task is STSB else int) for label in data.test.labels)
    assert not any('""' in text for split in data.splits.values() for text in (*split.texts, *(split.pairs or ())))
    (tmp_path / "test.tsv").write_bytes((REAL / folder / "test.tsv").read_bytes())
    without = elue.load(task, tmp_path).test  # the same examples, quoted otherwise; a few end in spaces
    both = (without.texts, data.test.texts), (without.pairs or (), data.test.pairs or ())
    assert without.labels is None and all([a.rstrip() for a in x] == [b.rstrip() for b in y] for x, y in both)


def test_each_task_has_its_metrics():
    assert elue.score(SST2, [1, 0, 1], [1, 1, 1]) == {"accuracy": pytest.approx(2 / 3), "mean": pytest.approx(2 / 3)}
    assert elue.score(MRPC, [1, 0, 1, 1], [1, 1, 0, 1]) == pytest.approx({"accuracy": 0.5, "f1": 2 / 3, "mean": 7 / 12})
    stats = pytest.importorskip("scipy.stats")
    said, judged = [0.1, 2.0, 1.0, 5.0], [1.0, 2.0, 3.0, 4.0]
    both = stats.pearsonr(said, judged).statistic, stats.spearmanr(said, judged).statistic
    assert elue.score(STSB, said, judged) == pytest.approx(
        {"pearson": both[0], "spearman": both[1], "mean": sum(both) / 2}
    )
    assert elue.score(SNLI, ["neutral", "entailment"], [1, 2])["accuracy"] == 0.5
    with pytest.raises(ValueError, match="prediction 1: 3, expected"):
        elue.score(SNLI, [3], [1])


def test_tracks_are_limits_of_parameters():
    assert [elue.track(n) for n in (1, 40_000_000, 40_000_001, 66_955_010, 109_483_778, 110_000_001)] == [
        40_000_000, 40_000_000, 55_000_000, 70_000_000, 110_000_000, None,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a model of 0 parameters"):
        elue.track(0)


def test_the_golden_number_of_flops():
    assert round(12 * elue.layer_flops(BERT, 128) / 1e6) == 22366
    plain = 2 * 12 * (4 * 128 * 768**2 + 2 * 128**2 * 768 + 2 * 128 * 768 * 3072)
    assert round(plain / 1e9, 2) == 22.35  # without what ELUE adds
    whole = elue.costs(BERT, 128)
    assert whole.shape == (12,)
    assert whole[-1] == 12 * elue.layer_flops(BERT, 128) + 2 * 2 * 128 * 768 + 2 * (768**2 + 2 * 768)


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.integers(1, 32))
def test_flops_are_those_of_a_count_by_module(n, heads, size, width, inner):
    attention = 3 * n * width * heads * size
    for _ in range(heads):
        attention += n * n + size * n * n + n * n + n * n * size  # scale, product, softmax, product
    linear = n * (heads * size * width + width * inner + inner * width)
    norms = 2 * (2 * n * width)
    encoder = Encoder(2, width, inner, heads, size)
    assert elue.layer_flops(encoder, n) == 2 * (attention + linear + norms)


def test_costs_grow_by_a_layer_and_by_the_heads_that_are_asked():
    lengths = np.array([7, 128, 31])
    last, every = elue.costs(BERT, lengths), elue.costs(BERT, lengths, every_exit=True)
    assert last.shape == every.shape == (12, 3)
    assert np.array_equal(last[:, 1], elue.costs(BERT, 128))
    assert np.array_equal(np.diff(last, axis=0), np.tile(elue.layer_flops(BERT, lengths), (11, 1)))
    head = 2 * (768**2 + 2 * 768)
    assert np.array_equal(every - last, np.arange(12)[:, None] * head * np.ones(3, int))
    with pytest.raises(ValueError, match="texts of 0 tokens"):
        elue.costs(BERT, 0)


LABELS = [0, 1, 1, 0]
LOGITS = np.array([  # (3 layers, 4, 2): answers 1 1 1 1, then 0 1 1 1, then 0 1 1 0
    [[0, 1], [0, 1], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1], [1, 0]],
], float)  # fmt: skip


def test_a_curve_has_a_point_for_each_layer():
    points = elue.curve(SST2, LOGITS, LABELS, [10, 20, 30])
    assert points == [Point(10, 0.5, "layer 1"), Point(20, 0.75, "layer 2"), Point(30, 1.0, "layer 3")]
    by_example = elue.curve(SST2, LOGITS, LABELS, np.outer([10, 20, 30], [1, 2, 3, 4]), "exit")
    assert [p.cost for p in by_example] == [25, 50, 75] and by_example[0].name == "exit 1"
    numbers = np.array([[1.0, 2, 3], [3, 2, 0]])[..., None]
    assert [p.metric for p in elue.curve(STSB, numbers, [1.0, 2.0, 3.0], [1, 2])] == pytest.approx(
        [1, -0.9909902], abs=1e-6
    )


def test_the_baselines_own_points_score_nothing_and_a_point_more_scores_it():
    baseline = elue.curve(SST2, LOGITS, LABELS, elue.costs(Encoder(layers=3), 128))
    assert elue_score(baseline, baseline).score == pytest.approx(0)
    better = [replace(p, metric=p.metric + 0.01) for p in baseline]
    assert elue_score(better, baseline).score == pytest.approx(0.01)
    found = {task.name: Elue(0.01 * i, 1, 0, (0.01 * i,)) for i, task in enumerate(TASKS)}
    assert elue.overall(found) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="expected one of each of SST-2, IMDb, SNLI, SciTail, MRPC, STS-B"):
        elue.overall({"SST-2": found["SST-2"]})


def test_a_dynamic_point_takes_each_answer_where_it_left():
    found = elue.point(SST2, LOGITS, LABELS, [10, 20, 30], [2, 1, 1, 3], "patience 1")
    assert found == Point(17.5, 1.0, "patience 1")
    for whole in (1, 2, 3):
        one = elue.point(SST2, LOGITS, LABELS, [10, 20, 30], [whole] * 4, f"layer {whole}")
        assert one == elue.curve(SST2, LOGITS, LABELS, [10, 20, 30])[whole - 1]
    with pytest.raises(ValueError, match="expected 4 numbers from 1 to 3"):
        elue.point(SST2, LOGITS, LABELS, [10, 20, 30], [0, 1, 1, 1])


def test_shapes_that_do_not_fit_are_refused():
    for logits, labels, cost in ((LOGITS[0], LABELS, [1, 2, 3]), (LOGITS, [0], [1, 2, 3]), (LOGITS, LABELS, [1, 2])):
        with pytest.raises(ValueError, match=r"expected \(layers, n, classes\), n, and \(layers,\) or \(layers, n\)"):
            elue.curve(SST2, logits, labels, cost)
    with pytest.raises(ValueError, match="SNLI: logits for 2 classes, expected 3"):
        elue.curve(SNLI, LOGITS, LABELS, [1, 2, 3])
    with pytest.raises(ValueError, match="not numbers"):
        elue.curve(SST2, LOGITS * np.nan, LABELS, [1, 2, 3])


@given(arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.integers(0, 2)), st.integers(1, 8))
def test_patience_is_that_of_brute_force(answers, times):
    left = elue.patience(np.eye(3)[answers], times)
    depth = len(answers)
    for example, layer in zip(answers.T, left, strict=True):
        ends = [i for i in range(times + 1, depth) if len(set(example[i - times - 1 : i])) == 1]
        assert layer == (ends[0] if ends else depth)


def test_patience_is_refused_what_it_cannot_read():
    with pytest.raises(ValueError, match=r"shape \(4, 2\), 1 times"):
        elue.patience(LOGITS[0], 1)
    with pytest.raises(ValueError, match="0 times"):
        elue.patience(LOGITS, 0)


@pytest.mark.parametrize("classes", [3, 0])
def test_replaying_a_models_layers_is_running_it(tmp_path, classes):
    """Rows leave the batch when the model runs; nobody leaves when its layers are written down."""
    torch = pytest.importorskip("torch")
    from gossamer.methods.early_exit.pabee import PABEE
    from gossamer.runtime.exits import Exits
    from tests import jobs

    at = jobs.job(tmp_path, layers=6, classes=classes)
    next(PABEE(2, tolerance=1.5)(at))
    [exits] = [m for m in at.model.modules() if isinstance(m, Exits)]
    torch.manual_seed(0)
    for head in exits.heads.linear:
        head.weight.data.normal_()
    batches = [at.collate(at.train[:5]), at.collate(at.train[5:24])]
    logits = elue.layer_logits(at.model, batches)
    assert logits.shape == (6, 24, classes or 1)
    runs = {}
    for exits.threshold in (1, 2, 3, 6):
        online = np.concatenate([jobs.logits(at.model, jobs_inputs(batch)).numpy() for batch in batches])
        left = elue.patience(logits, exits.threshold, exits.rule.tolerance)
        assert logits[left - 1, np.arange(24)] == pytest.approx(online, abs=1e-5)
        runs[exits.threshold] = left.mean()
    assert runs[1] < runs[2] <= runs[3] <= runs[6] == 6


def jobs_inputs(batch):
    return {key: value for key, value in batch.items() if key not in ("labels", "index")}


def test_a_model_without_exits_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"Linear has no exits: expected a model with early exit"):
        elue.layer_logits(torch.nn.Linear(2, 2), [])


def test_a_submission_of_the_first_type(tmp_path):
    place = tmp_path / "out"
    runs = [
        Run(SMALL, np.array([1, 0, 1]), 9000.5, 66.9, (2, 1, 3), "3"), Run(SMALL, ["0", "0", "1"], 22366, 109.5),
        Run(replace(STSB, size=2), [1.5, np.float32(2)], 1.0, 2.0),
    ]  # fmt: skip
    files = elue.submit(runs, place)
    assert sorted(file.name for file in files) == sorted(
        ["sst-2_3.tsv", "sst-2_infer_exit_layer_3.tsv", "sst-2.tsv", "sts-b.tsv", "declared.json"]
    )
    assert (place / "sst-2_3.tsv").read_text() == "index\tprediction\n0\t1\n1\t0\n2\t1\n"
    assert (place / "sst-2_infer_exit_layer_3.tsv").read_text() == "index\texit_layer\n0\t2\n1\t1\n2\t3\n"
    assert (place / "sts-b.tsv").read_text() == "index\tprediction\n0\t1.5\n1\t2.0\n"
    declared = json.loads((place / "declared.json").read_text())
    assert declared[0] == {"file": "sst-2_3.tsv", "task": "SST-2", "mflops": 9000.5, "mparams": 66.9}
    assert elue.read_predictions(SST2, place / "sst-2_3.tsv") == (1, 0, 1)
    assert elue.read_predictions(STSB, place / "sts-b.tsv") == (1.5, 2.0)
    assert elue.read_exit_layers(place / "sst-2_infer_exit_layer_3.tsv") == (2, 1, 3)
    with pytest.raises(ValueError, match="exists; choose another folder"):
        elue.submit(runs, place)
    assert len(elue.submit(runs, place, replace=True)) == 5


def test_tasks_may_be_submitted_one_by_one(tmp_path):
    elue.submit([Run(SMALL, [1, 0, 1], 9000.5, 66.9)], tmp_path)
    elue.submit([Run(replace(STSB, size=2), [1.5, 2.0], 1.0, 2.0)], tmp_path)
    assert [one["file"] for one in json.loads((tmp_path / "declared.json").read_text())] == ["sst-2.tsv", "sts-b.tsv"]
    elue.submit([Run(SMALL, [1, 0, 1], 7.0, 66.9)], tmp_path, replace=True)
    declared = {one["file"]: one["mflops"] for one in json.loads((tmp_path / "declared.json").read_text())}
    assert declared == {"sts-b.tsv": 1.0, "sst-2.tsv": 7.0}, "what was said of the other task stays"
    (tmp_path / "declared.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"declared.json holds something else than the costs of runs"):
        elue.submit([Run(SMALL, [1, 0, 1], 7.0, 66.9)], tmp_path, replace=True)


def test_a_submission_of_the_second_type(tmp_path):
    model = tmp_path / "model.py"
    model.write_text("# builds the model\n")
    files = elue.submit([Run(replace(SNLI, size=2), ["neutral", "entailment"])], tmp_path / "out", model)
    assert [file.name for file in files] == ["snli.tsv", "model.py"]
    assert files[0].read_text() == "index\tprediction\n0\t1\n1\t0\n" and files[1].read_text() == model.read_text()
    assert elue.read_predictions(SNLI, files[0]) == (1, 0)
    assert elue.score(SNLI, elue.read_predictions(SNLI, files[0]), ["neutral", "neutral"])["accuracy"] == 0.5
    with pytest.raises(ValueError, match=r"weights.bin is no Python file"):
        elue.submit([Run(SMALL, [1, 0, 1])], tmp_path / "more", tmp_path / "weights.bin")


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "no runs to submit"),
        ([Run(SMALL, [1, 0], 1, 1)], "SST-2: 2 predictions, expected 3, one for each row of its test"),
        ([Run(SMALL, [1, 0, 2], 1, 1)], "prediction 3: 2, expected '0', '1' or their number"),
        ([Run(SMALL, [1, 0, 1], 1, 1, [1])], "SST-2: 1 exit layers, expected 3"),
        ([Run(SMALL, [1, 0, 1], 1, None)], "costs 1 MFLOPs and None MParams: a submission of type 1 declares both"),
        ([Run(SMALL, [1, 0, 1], 1, 1)] * 2, r"a run twice, .* sst-2.tsv; give each its own"),
        ([Run(SMALL, [1, 0, 1], 1, 1, setting="../x")], "no file can have in its name"),
        ([Run(replace(STSB, size=1), [float("nan")], 1, 1)], "STS-B: 1 predictions are not numbers"),
        ([Run(IMDB, [], 1, 1)], "IMDb: 0 predictions, expected some"),
    ],
)
def test_a_submission_that_is_not_whole_is_refused_before_anything_is_written(tmp_path, runs, words):
    with pytest.raises(ValueError, match=words):
        elue.submit(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_a_submission_are_in_order(tmp_path):
    def file(body, column="prediction"):
        return write(tmp_path / "x", out=f"index\t{column}\n{body}") / "out.tsv"

    for body in ("0\t1\n2\t1\n", "1\t1\n0\t1\n", "0\t1\n1\n"):
        with pytest.raises(ValueError, match="expected each index from 0 to"):
            elue.read_predictions(SST2, file(body))
    with pytest.raises(ValueError, match="index 1: the label '2', expected 0 to 1"):
        elue.read_predictions(SST2, file("0\t1\n1\t2\n"))
    with pytest.raises(ValueError, match="has no column 'exit_layer'"):
        elue.read_exit_layers(file("0\t1\n"))
    with pytest.raises(ValueError, match="expected layers from 1 on"):
        elue.read_exit_layers(file("0\t0\n", "exit_layer"))
