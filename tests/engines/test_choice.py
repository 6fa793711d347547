"""The choice of an engine: made by measurement with a clock of the test's, remembered, and shown."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gossamer import engines
from gossamer.cli import app
from gossamer.engines import choice, race, remembered, texts
from gossamer.engines.choice import Row, Table, fastest, table
from gossamer.engines.predictor import Predictor
from gossamer.engines.race import Limits, Sample, made_up, read, shown
from gossamer.engines.texts import Facts
from gossamer.task import Classification, QuestionAnswering, Read

KNOWN = Facts(Classification(("no", "yes")), 40, 0, False)


def spell(texts, pairs):
    """A token a word, and two around them."""
    pairs = [""] * len(texts) if pairs is None else pairs
    words = [[1, *(len(word) for word in f"{a} {b}".split()), 2][:40] for a, b in zip(texts, pairs, strict=True)]
    return [Read(ids, [0] * len(ids), False) for ids in words]


class Watch:
    """A clock that stands still but for what predictors take."""

    def __init__(self):
        self.now, self.asked = 0.0, []

    def __call__(self):
        return self.now

    def predictor(self, name, alone=1.0, batch=1.0, fails=inf):
        """One that takes so many seconds a text, alone or in a batch, and fails in a later call."""

        def run(given):
            if sum(who == name for who, _, _ in self.asked) >= fails:
                raise RuntimeError("out of luck")
            rows = len(given["input_ids"])
            self.asked.append((name, rows, given["input_ids"].sum()))
            self.now += alone if rows == 1 else batch * rows
            return np.zeros((rows, 2), np.float32)

        return Predictor(name, KNOWN, spell, run)


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def fakes(monkeypatch, tmp_path, watch):
    """Puts predictors in place of the engines, all installed, and gives a folder that carries graphs."""
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "find_spec", lambda package: package)
    monkeypatch.setitem(race.race.__kwdefaults__, "clock", watch)
    monkeypatch.setattr(choice, "_start", lambda folder, row, sample, threads, start: 0.5)
    monkeypatch.setattr(choice, "halves", lambda: False)  # whatever this processor can
    folder = tmp_path / "artefact"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.onnx").write_text("a graph")

    def put(**predictors):
        opened = []

        def load(folder, engine, threads=None, *, precision="saved"):
            opened.append(engine if precision == "saved" else f"{engine} {precision}")
            found = predictors.get(opened[-1].replace(" ", "_"), ValueError(f"{engine} cannot run this graph"))
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(engines, "load", load)
        return folder, opened

    return put


def run(*args):
    return CliRunner().invoke(app, ["engines", *map(str, args)])


def test_the_winner_takes_the_least_time_by_the_geometric_mean(watch):
    sides = {"slow": watch.predictor("slow", 3, 3), "alone": watch.predictor("alone", 1, 4)}
    sides["both"] = watch.predictor("both", 1.5, 1.5)
    sample = made_up(sides["slow"], 32)
    found = race.race(sides, sample, [1, 32], clock=watch)
    assert found.winner([1, 32]) == "both"  # 1.5, against 2 and 3
    assert found.winner([1]) == "alone" and found.winner([32], ["slow", "alone"]) == "slow"
    assert found.per_second("both", 32) == pytest.approx(1 / 1.5) and found.quantile_ms("slow", 99) == 3000
    assert found.times("slow", "both", [1, 32]) == pytest.approx([2.0] * len(found.laps["slow"][1]))


def test_they_take_turns_on_the_same_texts(watch):
    sides = {name: watch.predictor(name) for name in "ab"}
    found = race.race(sides, made_up(sides["a"], 4), [4], Limits(inf, rounds=3), clock=watch)
    batches = [(name, tokens) for name, rows, tokens in watch.asked if rows == 4]
    assert [name for name, _ in batches] == list("ab" + "ab" + "ba" + "ab"), (
        "a batch that does not count, and three rounds"
    )
    by_round = [{tokens for _, tokens in batches[at : at + 2]} for at in range(2, 8, 2)]
    assert all(len(tokens) == 1 for tokens in by_round) and len(set(map(str, by_round))) == 3, "other texts each time"
    assert all(len(found.laps[name][4]) == 3 for name in "ab")
    assert sum(rows == 1 for _, rows, _ in watch.asked) == 6, "a call before each that is not timed"


def test_a_race_is_as_short_as_it_can_be(watch):
    def rounds(a, b, **limits):
        sides = {"a": watch.predictor("a", a, a), "b": watch.predictor("b", b, b)}
        shares = []
        found = race.race(sides, made_up(sides["a"], 4), [1, 4], Limits(**limits), clock=watch, tell=shares.append)
        assert shares == sorted(shares) and len(shares) == len(found.laps["a"][4])
        return len(shares)

    assert rounds(1e-9, 2e-9, enough=3) == 3, "clear"
    assert rounds(1e-9, 1.1e-9, rounds=7) == 7, "close"
    assert rounds(100, 200, seconds=2) == 1, "slow"
    assert rounds(0.01, 0.0105, seconds=2) < 12, "when time is up"


def test_one_that_fails_leaves_the_race(watch):
    sides = {"a": watch.predictor("a", fails=20), "b": watch.predictor("b", 9, 9), "c": watch.predictor("c", fails=0)}
    found = race.race(sides, made_up(sides["b"], 4), [1, 4], Limits(inf, margin=inf), clock=watch)
    assert found.failed == {"a": "RuntimeError: out of luck", "c": "RuntimeError: out of luck"}
    assert list(found.laps) == ["b"] and found.winner([1, 4]) == "b" and len(found.laps["b"][1]) == 12


def test_made_up_texts_are_as_long_as_sentences_or_as_asked(watch):
    sample = made_up(watch.predictor("a"), 32)
    assert len(sample.texts) == 128 and sample.pairs is None and sample == made_up(watch.predictor("a"), 32)
    assert 21 < np.mean(sample.lengths) < 24 and np.median(sample.lengths) == 20 and max(sample.lengths) == 40, "cut"
    assert made_up(watch.predictor("a"), 1, [5, 9]).lengths == (5, 9) * 32
    assert len(made_up(watch.predictor("a"), 300).texts) == 300
    letters = Predictor("a", replace(KNOWN, max_length=500), lambda texts, pairs: [
        Read([1] * (len(text) + 2), [0] * (len(text) + 2), False) for text in texts
    ], None)  # fmt: skip
    assert abs(np.mean(made_up(letters, 32).lengths) - 24) < 3, "in a tokenizer that makes several tokens of a word"
    asks = Predictor("a", replace(KNOWN, task=QuestionAnswering()), spell, None)
    assert len(made_up(asks, 1).pairs or []) == 64


def test_shown_texts_are_spread_over_all_and_repeat_where_they_are_few(watch):
    reader = watch.predictor("a")
    assert shown(reader, 1, [f"{i}" for i in range(640)], None, "x").texts == [f"{i}" for i in range(0, 640, 10)]
    few = shown(reader, 1, ["a b", "c"], ["d", "e f g"], "x.csv")
    assert few.texts == ["a b", "c"] * 32 and few.pairs == ["d", "e f g"] * 32 and few.lengths == (5, 6) * 32
    assert str(few) == "x.csv, 6 tokens on average, 6 at most"
    with pytest.raises(ValueError, match="x has no texts, expected some to time engines with"):
        shown(reader, 1, [], None, "x")


def test_a_file_is_read_as_the_task_has_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForQuestionAnswering"]}))
    (tmp_path / "asked.jsonl").write_text('{"question": "who?", "context": "he"}\n{"question": "a", "context": "b"}\n')
    assert read(tmp_path, tmp_path / "asked.jsonl") == (["who?", "a"], ["he", "b"])
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    assert read(tmp_path, tmp_path / "lines.txt") == (["one", "two"], None)
    (tmp_path / "own.csv").write_text("first,second\na,b\n")
    assert read(tmp_path, tmp_path / "own.csv", "second", "first") == (["b"], ["a"])


def test_the_fastest_is_measured_once_and_remembered(fakes, watch, caplog):
    folder, opened = fakes(openvino=watch.predictor("o", 2, 2), onnxruntime=watch.predictor("r", 1, 1))
    with caplog.at_level(logging.INFO):
        assert fastest(folder) == "onnxruntime" and opened == ["openvino", "onnxruntime"]
    assert [one.getMessage() for one in caplog.records] == [
        "artefact runs fastest here on onnxruntime with 1,000 ms for a text and 1 texts a second in batches of 32, "
        "before openvino with 2,000 ms for a text and 0.5 texts a second in batches of 32; measured on made-up texts, "
        "22 tokens on average, 40 at most"
    ]
    asked = len(watch.asked)
    assert fastest(folder) == "onnxruntime" and len(opened) == 2 and len(watch.asked) == asked
    for other in ({"threads": 1}, {"batch_size": 8}, {"lengths": [9, 80]}):
        assert fastest(folder, **other) == "onnxruntime"
    assert len(opened) == 8, "of each of these nothing was known"
    fastest(folder, batch_size=9), fastest(folder, lengths=[8, 81])
    assert len(opened) == 8, "nearly the same"
    [file] = remembered.place().glob("engines/*")
    assert len(json.loads(file.read_text())["choices"]) == 4


def test_a_batch_size_decides_alone(fakes, watch):
    folder, _ = fakes(openvino=watch.predictor("o", 4, 1), onnxruntime=watch.predictor("r", 1, 2))
    assert [fastest(folder, batch_size=size) for size in (1, 32)] == ["onnxruntime", "openvino"]


@pytest.mark.parametrize("change", ["another engine", "another processor", "another graph", "a manifest"])
def test_what_the_answer_depends_on_is_measured_again(fakes, watch, monkeypatch, change):
    folder, opened = fakes(openvino=watch.predictor("o"), onnxruntime=watch.predictor("r", 2, 2))
    fastest(folder)
    if change == "another engine":
        monkeypatch.setattr(remembered, "installed", lambda package: "99.0")
    elif change == "another processor":
        monkeypatch.setattr(remembered, "hardware", lambda: {"cpu": "other", "instructions": [], "cores": 3})
    else:
        (folder / ("manifest.json" if change == "a manifest" else "model.onnx")).write_text("other")
    fastest(folder)
    assert len(opened) == 4


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"choices": []}', b'{"choices": {"x": 1}}', None])
def test_a_broken_cache_is_no_cache(fakes, watch, content):
    folder, opened = fakes(openvino=watch.predictor("o"), onnxruntime=watch.predictor("r", 2, 2))
    fastest(folder)
    [file] = remembered.place().glob("engines/*.json")
    if content is None:
        told = json.loads(file.read_text())
        told["choices"] = {key: {"engine": "tvm"} for key in told["choices"]}
        content = json.dumps(told).encode()
    file.write_bytes(content)
    assert fastest(folder) == "openvino" and len(opened) == 4
    assert fastest(folder) == "openvino" and len(opened) == 4, "mended"


def test_a_cache_that_cannot_be_written_is_no_error(fakes, watch, monkeypatch, tmp_path, caplog):
    folder, opened = fakes(openvino=watch.predictor("o"), onnxruntime=watch.predictor("r", 2, 2))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.DEBUG, "gossamer"):
        assert fastest(folder) == fastest(folder) == "openvino" and len(opened) == 4
    assert "which engine is fastest cannot be remembered (" in caplog.text


def test_the_cache_is_where_the_system_has_caches(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    for name in ("GOSSAMER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    places = {"linux": "/home/me/.cache", "darwin": "/home/me/Library/Caches", "win32": "/local"}
    for system, place in places.items():
        monkeypatch.setattr(sys, "platform", system)
        assert remembered.place() == Path(place) / "gossamer"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert remembered.place() == Path("/xdg/gossamer")
    monkeypatch.setenv("GOSSAMER_CACHE", "/own")
    assert remembered.place() == Path("/own")


def test_old_answers_go(fakes):
    folder, _ = fakes()
    for i in range(remembered.KEPT + 3):
        remembered.remember(folder, {f"{i}": {"engine": "torch"}})
    assert list(remembered.recall(folder)) == [f"{i}" for i in range(3, remembered.KEPT + 3)]
    [file] = remembered.place().glob("engines/*")
    assert file.suffix == ".json", "and no part of one"


def test_nothing_is_measured_where_there_is_no_choice(fakes, watch, monkeypatch):
    folder, opened = fakes(openvino=watch.predictor("o"), onnxruntime=watch.predictor("r"))
    monkeypatch.setattr(engines, "find_spec", lambda package: package if package != "openvino" else None)
    assert fastest(folder) == "onnxruntime"
    (folder / "model.onnx").unlink()
    assert fastest(folder) == "torch"
    assert not opened and not remembered.place().exists()


def test_an_engine_that_cannot_run_the_graphs_is_left_out(fakes, watch, caplog):
    folder, _ = fakes(onnxruntime=watch.predictor("r"))
    with caplog.at_level(logging.INFO):
        assert fastest(folder) == "onnxruntime"
    assert "before openvino, which failed (openvino cannot run this graph); measured on" in caplog.text
    folder, _ = fakes()
    with pytest.raises(ValueError, match="openvino cannot run this graph"):
        fastest(folder, 7)
    folder, _ = fakes(openvino=watch.predictor("o", fails=0), onnxruntime=watch.predictor("late", fails=3))
    with pytest.raises(
        ValueError,
        match=r"no engine can run '.*' \(openvino: Runtime.*; onnxruntime: .*luck\); copy the artefact again",
    ):
        fastest(folder, 7)


def test_a_table_has_every_engine_and_marks_what_auto_takes(fakes, watch):
    sides = {"openvino": watch.predictor("o", 2, 2), "onnxruntime": watch.predictor("r", 3, 3)}
    folder, opened = fakes(**sides, torch=watch.predictor("t", 1, 1))
    told = []
    found = table(folder, tell=lambda what, share: told.append((what, share)))
    assert [row.name for row in found.rows if row.precision == "saved"] == ["openvino", "onnxruntime", "torch"]
    assert found.chosen == "openvino", "torch is no candidate where there are graphs"
    one = next(row for row in found.rows if row.engine == "onnxruntime")
    assert one == Row("onnxruntime", "saved", {1: 1 / 3, 32: 1 / 3}, 3000, 3000, packs=False, start_s=0.5)
    words = [what for what, _ in told]
    assert words[0] == "opening openvino" and words[-1] == "starting each in a fresh process"
    assert "comparing the engines" in words and all(0 <= share <= 1 for _, share in told)
    opened.clear()
    assert fastest(folder) == "openvino" and not opened
    again = table(folder)
    assert not opened and again.remembered and again.rows == found.rows and again.texts == found.texts
    assert not table(folder, again=True).remembered and opened


def test_the_texts_that_were_shown_decide_what_auto_takes(fakes, watch):
    sides = {"openvino": watch.predictor("o", 2, 2), "onnxruntime": watch.predictor("r", 1, 5)}
    folder, opened = fakes(**sides, torch=ValueError("no"))
    assert fastest(folder, batch_size=1) == "onnxruntime" and fastest(folder) == "openvino"
    found = table(folder, ["some words", "and more"], origin="mine.txt", batch_size=1)
    assert found.texts == "mine.txt, 4 tokens on average, 4 at most" and found.chosen == "onnxruntime"
    assert set(found.rows[0].per_second) == {1}
    opened.clear()
    assert fastest(folder) == fastest(folder, lengths=[4, 4], batch_size=1) == "onnxruntime" and not opened
    table(folder)
    assert fastest(folder) == "openvino", "what was shown last"


def test_each_batch_size_of_a_table_is_remembered_with_its_texts(fakes, watch):
    folder, opened = fakes(openvino=watch.predictor("o", 9, 1), onnxruntime=watch.predictor("r", 1, 2))
    sample = table(folder, ["some words", "and more"], origin="mine.txt")
    assert sample.chosen == "onnxruntime"
    opened.clear()
    found = [fastest(folder, lengths=[4, 4], batch_size=size) for size in (None, 1, 32)]
    assert found == ["onnxruntime", "onnxruntime", "openvino"] and not opened


@pytest.fixture
def words(fakes, watch, raw):
    """A folder that reads texts, with a choice between two engines."""
    folder, opened = fakes(openvino=watch.predictor("o", 9, 1), onnxruntime=watch.predictor("r", 1, 2))
    raw.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 60}')
    return folder, opened


def test_a_file_is_expected_to_be_as_it_begins(words, tmp_path):
    folder, opened = words
    (tmp_path / "own.jsonl").write_text("".join('{"first": "%s"}\n' % ("w1 " * (1 + i % 2)) for i in range(640)))
    found = choice.expected(folder, str(tmp_path / "own.jsonl"), 8, "first")
    assert found["batch_size"] == 8 and set(found["lengths"]) <= {3, 4} and len(found["lengths"]) == 64
    asked = shown(Predictor("a", KNOWN, texts.reader(folder, texts.facts(folder)), None), 8,
                  *read(folder, tmp_path / "own.jsonl", "first"), "x")  # fmt: skip
    assert found["lengths"] == asked.lengths, "as `gossamer engines --data` has it"
    (tmp_path / "wrong.jsonl").write_text('{"first": "w1"}\n{\n')
    assert choice.expected(folder, str(tmp_path / "wrong.jsonl"), 8, "first") == {"batch_size": 8, "lengths": None}
    assert choice.expected(folder, "-", 8) == choice.expected(folder, os.devnull, 8) == {}, "who knows"
    (folder / "model.onnx").unlink()
    assert choice.expected(folder, str(tmp_path / "own.jsonl"), 8) == {} and not opened, "no choice"


def test_long_texts_are_not_all_looked_at(words, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "CHARACTERS", 100)
    (tmp_path / "a.txt").write_text(("w" * 30 + "\n") * 1000)
    assert len(read(words[0], tmp_path / "a.txt")[0]) == 4
    seen = list[str]()
    monkeypatch.setattr(race, "reader", lambda folder, known: lambda some, pairs: seen.extend(some) or
                        texts.reader(folder, known)(some, pairs))  # fmt: skip
    assert len(race.lengths(words[0], tmp_path / "a.txt", 8)) == 64 and len(seen) == 4, "and each of them once"


def test_load_goes_by_what_is_expected(artefact, monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "fastest", lambda *given: asked.append(given[1:]) or "onnxruntime")
    assert engines.load(artefact.folder, threads=1, batch_size=8, lengths=[5, 9]).name == "onnxruntime"
    engines.load(artefact.folder, threads=1)
    assert asked == [(1, [5, 9], 8), (1, None, None)]
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 or more"):
        engines.load(artefact.folder, batch_size=0)


def test_a_table_says_why_an_engine_is_not_there(fakes, watch, monkeypatch):
    folder, _ = fakes(onnxruntime=watch.predictor("r"), torch=ValueError("torch cannot"))
    monkeypatch.setattr(engines, "find_spec", lambda package: package if package != "openvino" else None)
    assert {row.name: row.why for row in table(folder).rows} == {
        "openvino": 'not installed; type: pip install "gossamer[openvino]"',
        "onnxruntime": "",
        "torch": "torch cannot",
    }
    (folder / "model.onnx").unlink()
    folder, _ = fakes(torch=watch.predictor("t"))
    found = table(folder)
    assert found.chosen == "torch"
    assert {row.name: row.why for row in found.rows} == {
        "openvino": "the artefact carries no graph (model.onnx)",
        "onnxruntime": "the artefact carries no graph (model.onnx)",
        "torch": "",
    }


def test_other_precisions_are_shown_where_they_can_run(fakes, watch, monkeypatch):
    sides = {name: watch.predictor(name) for name in ("openvino", "openvino_bf16", "torch")}
    folder, _ = fakes(onnxruntime=watch.predictor("r"), **sides)
    monkeypatch.setattr(choice, "halves", lambda: True)
    rows = table(folder).rows
    names = ["openvino", "openvino bf16", "onnxruntime", "torch", "torch bf16"]
    assert [row.name for row in rows] == names
    assert [row.name for row in rows if row.why] == ["torch bf16"] and "cannot run" in rows[-1].why
    assert [row.name for row in rows if row.chosen] == ["openvino"], "auto keeps what was saved"
    monkeypatch.setattr(choice, "halves", lambda: False)
    assert not any(row.precision == "bf16" for row in table(folder, again=True).rows)


def test_the_command_prints_a_table_or_json(fakes, watch, tmp_path):
    folder, opened = fakes(
        openvino=watch.predictor("o", 0.002, 0.001),
        onnxruntime=watch.predictor("r", 0.003, 0.002),
        torch=ValueError("-"),
    )
    (tmp_path / "mine.txt").write_text("one text\nanother one\n")
    done = run(folder, "--data", tmp_path / "mine.txt", "--threads", 1)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split("  ")[0] == "engine" and "texts/s at 32" in lines[0]
    assert lines[1].split() == ["openvino", "500", "1,000", "2", "2", "no", "0.50", "what", "auto", "takes"]
    assert lines[-1] == f"measured on {tmp_path / 'mine.txt'}, 4 tokens on average, 4 at most"
    opened.clear()
    told = json.loads(run(folder, "--json", "--threads", 1).stdout)
    assert not opened and told["remembered"] and told["chosen"] == "openvino"
    assert told["rows"][1]["per_second"] == {"1": pytest.approx(1 / 0.003), "32": pytest.approx(500)}
    done = run(folder, "--threads", 1)
    assert not opened and done.stdout.splitlines()[-1].endswith("at another time: --again measures anew")
    assert run(folder, "--threads", 1, "--again").exit_code == 0 and opened
    assert "no file" in run(folder, "--data", tmp_path / "nothing.txt").output


def test_the_real_engines_are_compared(artefact, tmp_path, monkeypatch):
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path))
    started = []

    def start(folder, engine, *asked):
        started.append((engine, *asked[1:]))
        return 0.5, 1

    found = table(artefact.folder, threads=1, seconds=0.2, start=start)
    assert started == [(engine, None, 1) for engine in engines.ENGINES], "each in a process of its own"
    assert [row.engine for row in found.rows if row.precision == "saved"] == [*engines.ENGINES]
    assert all(row.why or (row.p50_ms <= row.p99_ms and set(row.per_second) == {1, 32}) for row in found.rows)
    saved = [row for row in found.rows if row.precision == "saved"]
    assert [row.packs for row in saved] == [True, True, False]
    assert engines.load(artefact.folder, threads=1).name == found.chosen
    code = "import sys; from gossamer.engines.choice import fastest; from pathlib import Path\n"
    code += "fastest(Path(sys.argv[1]), 1), fastest(Path(sys.argv[1]), 1, batch_size=4)\n"
    code += "print(sum(name.partition('.')[0] in ('torch', 'transformers') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, artefact.folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"], "choosing imports neither torch nor transformers"


def test_a_table_without_anybody_is_empty():
    assert Table([Row("torch", why="no")], "x").chosen == "" and str(Sample(["a"], None, (3,), "x")) == (
        "x, 3 tokens on average, 3 at most"
    )
