"""The commands: what they pass on, what they print, what they refuse, and how they end."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gossamer import recipe
from gossamer.cli import app
from gossamer.engines.part import CONTINUES
from gossamer.engines.stream import AHEAD, WINDOW
from gossamer.terminal import Pace, print_json, progress, told, writing

Fake = Callable[..., SimpleNamespace]


def run(*args: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, list(args), input=stdin)


def alone(*args: str, before: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """A process of its own that runs `before` and then the command."""
    code = f"import sys; sys.argv = ['gossamer', *{list(args)!r}]\n{before}\nfrom gossamer.cli import main; main()"
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, **more)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a module of the given names in place of gossamer.<name>."""

    def put(name: str, **content: Any) -> SimpleNamespace:
        module = SimpleNamespace(**content)
        monkeypatch.setitem(sys.modules, f"gossamer.{name}", module)
        return module

    return put


@pytest.fixture
def calls(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A `compress` that records its arguments, and a recipe language of upper-case letters."""
    seen: list[Any] = []

    def compress(*args: Any, **words: Any) -> dict[str, Any]:
        seen.append((args, words))
        if words["dry_run"]:
            stages = [{"name": "prune", "steps": 3}, {"name": "tune", "reads": "labels"}]
            return {"stages": stages, "seconds": 90, "lines": []}
        return {"task": "text-classification", "out": words["out"]}

    def parse(text: str) -> str:
        if not text.isupper():
            raise ValueError(f"found {text}, expected capitals")
        return f"<{text}>"

    fake("pipeline", compress=compress)
    fake("report", show=lambda report: print(f"table of {report['task']}"))
    monkeypatch.setattr(recipe, "parse", parse)
    return seen


# --- quick answers ----------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "onnxruntime", "numpy", "pandas", "datasets", "accelerate", "tokenizers")


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["env"], ["env", "--json"], ["compress", "--help"]])
def test_quick_commands_import_nothing_heavy(args: list[str]) -> None:
    # imports are counted, not seconds: those depend on what else the machine does
    count = f"import atexit; atexit.register(lambda: print(len(sys.modules), [m for m in {HEAVY} if m in sys.modules]))"
    done = alone(*args, before=count)
    assert done.returncode == 0, done.stderr
    number, heavy = done.stdout.splitlines()[-1].split(" ", 1)
    assert heavy == "[]" and int(number) < 700


def test_version() -> None:
    done = run("--version")
    assert done.exit_code == 0 and done.stdout.startswith("gossamer ") and done.stdout.strip()[-1].isdigit()


def test_help_lists_the_commands() -> None:
    for done in (run("--help"), run("-h"), run()):
        assert all(
            f" {name} " in done.output for name in ("demo", "compress", "measure", "check", "predict", "methods", "env")
        )


def test_env() -> None:
    found = json.loads(run("env", "--json").stdout)
    assert {"versions", "hardware"} <= found.keys() and found["versions"]["python"] and found["hardware"]["cores"] >= 1
    text = run("env").stdout
    assert "python" in text and "cores" in text and os.uname().nodename not in text.split()


def test_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    told_of: dict[str, Any] = {"name": "Cut", "rows": ["a", "b"], "family": "pruning", "paper": "T (A, B 2020)"}
    keep = {"name": "keep", "type": "float", "default": 0.5, "range": [0.1, 0.9], "choices": None}
    bits = {"name": "bits", "type": "int", "default": 8, "range": None, "choices": [4, 8]}
    how = {"name": "how", "type": "'a' | 'b'", "default": "a", "range": None, "choices": ["a", "b"]}
    told_of |= {"kind": "cut", "year": 2020, "fields": [keep, bits, how]}
    monkeypatch.setattr(recipe, "methods", lambda: {"Cut": object})
    monkeypatch.setattr(recipe, "describe", lambda cls: told_of)
    assert json.loads(run("methods", "--json").stdout) == [told_of]
    assert run("methods").stdout.splitlines() == [
        "Cut  (pruning, 2020)  T (A, B 2020)",
        "    rows: a, b",
        "    keep: float = 0.5  (0.1 to 0.9)",
        "    bits: int = 8  (one of 4, 8)",
        "    how: 'a' | 'b' = 'a'",
    ]


# --- compress, demo, measure ------------------------------------------------------------------------------------------


def test_compress_passes_everything_on(calls: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("compress", "model", "--data", "d.csv", "--recipe", "A", "--out", str(out))
    assert done.exit_code == 0 and done.stdout == f"table of text-classification\nartefact: {out}\n"
    plain = dict(teacher=None, seed=0, max_steps=None, minutes=None)
    plain |= dict(resume=False, dry_run=False, autocast="auto", report_to=None)
    columns = dict(text="", pair="", label="", task=None, progress=None)
    assert calls.pop() == (("model", "<A>"), dict(data="d.csv", out=out, **plain, **columns))
    more = "--teacher t --seed 3 --max-steps 5 --minutes 9.5 --resume --text a --pair b --label c --no-autocast"
    more += " --report-to wandb --task text-regression"
    run("compress", "model", "--data", "d.csv", "--recipe", "A", "--out", str(out), *more.split())
    columns = dict(text="a", pair="b", label="c", task="text-regression", progress=None)
    given = dict(teacher="t", seed=3, max_steps=5, minutes=9.5)
    given |= dict(resume=True, dry_run=False, autocast=False, report_to="wandb")
    assert calls.pop() == (("model", "<A>"), dict(data="d.csv", out=out, **given, **columns))


def test_compress_prints_json_or_the_plan(calls: list[Any], tmp_path: Path) -> None:
    base = ["compress", "model", "--data", "d", "--recipe", "A", "--out", str(tmp_path / "out")]
    assert json.loads(run(*base, "--json").stdout) == {"task": "text-classification", "out": str(tmp_path / "out")}
    plan = run(*base, "--dry-run").stdout
    assert all(word in plan for word in ("name", "steps", "reads", "prune", "tune", "labels", "seconds: 90"))
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_refused_unless_resumed(calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("kept")
    base = ["compress", "model", "--data", "d", "--recipe", "A", "--out"]
    done = run(*base, str(tmp_path))
    assert done.exit_code == 1 and not calls and "Traceback" not in done.stderr
    assert done.stderr == (
        f"error: --out {tmp_path} is not empty; choose another folder, or add --resume to continue its run\n"
    )
    assert "is a file, expected a folder" in run(*base, str(tmp_path / "precious.txt")).stderr
    assert run(*base, str(tmp_path), "--resume").exit_code == 0 and len(calls) == 1
    (tmp_path / "empty").mkdir()
    assert run(*base, str(tmp_path / "empty")).exit_code == 0
    assert (tmp_path / "precious.txt").read_text() == "kept"


def test_a_wrong_recipe_comes_before_everything(calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "full").write_text("")
    done = run("compress", "model", "--data", "d", "--recipe", "a", "--out", str(tmp_path))
    assert (done.exit_code, done.stderr) == (1, "error: found a, expected capitals\n") and not calls


@pytest.mark.parametrize(
    "args",
    [
        ["compress", "model"],
        ["compress", "model", "--data", "d", "--recipe", "A", "--out", "o", "--max-steps", "0"],
        ["compress", "model", "--data", "d", "--recipe", "A", "--out", "o", "--frobnicate"],
        ["predict"],
        ["predict", "a", "--batch-size", "0"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_is_usage(args: list[str], calls: list[Any]) -> None:
    assert run(*args).exit_code == 2 and not calls


def test_check_says_a_line_per_criterion_and_its_exit_code_the_rest(fake: Fake) -> None:
    from gossamer.promise import Criterion, Promise

    seen: list[Any] = []
    answers = [Criterion("max_drop", 1.0, 0.5, True), Criterion("min_speedup", 2.0, 1.5, False)]

    def check(artefact: str, promise: Promise, **words: Any) -> list[Criterion]:
        seen.append((artefact, promise, words))
        return answers

    fake("promise", Promise=Promise, check=check)
    given = [
        "check",
        "small",
        "--data",
        "d.csv",
        "--baseline",
        "t",
        "--max-drop",
        "1",
        "--min-speedup",
        "2",
        "--cpu-time",
    ]
    done = run(*given)
    assert done.exit_code == 1 and done.stderr == ""
    assert done.stdout == ("pass  max_drop: 0.5, expected <= 1\nFAIL  min_speedup: 1.5, expected >= 2\n")
    columns = dict(text="", pair="", label="", task=None, progress=None)
    assert seen == [
        (
            "small",
            Promise(max_drop=1.0, min_speedup=2.0, cpu=True),
            dict(data="d.csv", baseline="t", threads=None, **columns),
        )
    ]
    assert [c["met"] for c in json.loads(run(*given, "--json").stdout)] == [True, False]
    del answers[1]
    assert run(*given).exit_code == 0


def test_check_ends_with_2_for_wrong_inputs_and_1_for_a_broken_promise_alone(tmp_path: Path) -> None:
    given = ["check", str(tmp_path / "nowhere"), "--data", str(tmp_path / "none.csv")]
    for wrong in (
        [*given, "--max-bytes", "5"],  # no such file
        given,  # no criterion
        [*given, "--max-drop", "1"],  # no baseline
        [*given, "--max-byte", "5"],  # a typo
        [*given, "--max-bytes", "5", "--threads", "0"],
        ["check"],
    ):
        done = run(*wrong)
        assert done.exit_code == 2 and "Traceback" not in done.output, wrong
    assert run("measure", str(tmp_path / "nowhere"), "--data", str(tmp_path / "none.csv")).exit_code == 1
    said = " ".join(run("check", "--help").output.split())
    assert "Exit code 0: all are met. 1: at least one is not. 2: a wrong command line" in said


def test_check_and_measure_pass_threads_on(fake: Fake) -> None:
    seen: list[Any] = []
    fake("promise", Promise=lambda **asked: asked, check=lambda *args, **words: seen.append(words["threads"]) or [])
    fake("measure", measure=lambda artefacts, **words: seen.append(words) or {"task": "toy"})
    fake("report", show=lambda report: None)
    assert run("check", "a", "--data", "d", "--max-bytes", "5", "--threads", "1").exit_code == 0
    given = ["--threads", "3", "--energy-by", "codecarbon", "--loyalty-base", "e"]
    assert run("measure", "a", "--data", "d", *given).exit_code == 0
    assert seen[0] == 1 and (seen[1]["threads"], seen[1]["energy_by"], seen[1]["loyalty_base"]) == (
        3,
        "codecarbon",
        "e",
    )


@pytest.mark.parametrize("only", ["", ",", " , "])
def test_only_nothing_is_refused(only: str) -> None:
    done = run("measure", "nowhere", "--data", "d.csv", "--only", only)
    assert done.exit_code == 1 and "expected one or more of quality, size, macs, speed" in done.stderr


def test_json_is_what_the_standard_has(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    print_json({"a": [1.5, float("inf")], "b": {"c": float("nan")}, "p": Path("x"), "d": 2})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": {"c": None}, "p": "x", "d": 2}
    assert "no finite number: a.1" in caplog.text and "no finite number: b.c" in caplog.text


def test_benchmark(fake: Fake) -> None:
    seen: list[Any] = []
    found = {
        "benchmark": "glue/SST-2",
        "part": "dev",
        "examples": 4,
        "scores": {"accuracy": 0.75},
        "submission": "s/SST-2.tsv",
    }
    fake("benchmarks.run", benchmark=lambda *args, **words: seen.append((args, words)) or found)
    given = ["benchmark", "glue/SST-2", "small", "--data", "g", "--labels", "neg,pos", "--submission", "s", "--force"]
    done = run(*given)
    assert done.stdout == "glue/SST-2, 4 examples of dev\n  accuracy: 0.7500\nsubmission: s/SST-2.tsv\n"
    words = dict(data="g", part=None, labels=["neg", "pos"], submission="s", without=None)
    words |= dict(replace=True, progress=None)
    assert seen.pop() == (("glue/SST-2", "small"), words)
    assert json.loads(run(*given, "--json").stdout) == found
    found |= {"scores": {"average": None, "missing": ["RTE", "WNLI"], "places": [{"place": 1, "saving": 2.0}]}}
    assert run(*given).stdout.splitlines()[1:-1] == [
        "  average: None", "  missing: RTE, WNLI", "  places 1 place: 1", "  places 1 saving: 2.0000"
    ]  # fmt: skip
    found["how"] = "in pairs"
    assert run(*given).stdout.splitlines()[1] == "asked: in pairs"
    run("benchmark", "glue", "runs", "--without", "WNLI,RTE")
    assert seen.pop()[1]["without"] == ["WNLI", "RTE"]


def test_demo(fake: Fake, tmp_path: Path) -> None:
    seen: list[Any] = []
    fake("embedded", demo=lambda out, quick: seen.append((out, quick)) or {"task": "toy"})
    fake("report", show=lambda report: print(report["task"]))
    assert run("demo", "--out", str(tmp_path), "--quick").stdout == f"toy\nresults: {tmp_path}\n"
    assert run("demo").exit_code == 0
    assert seen == [(tmp_path, True), (Path("runs/demo"), False)]


def test_measure(fake: Fake, tmp_path: Path) -> None:
    seen: list[Any] = []
    fake("measure", measure=lambda artefacts, **words: seen.append((artefacts, words)) or {"task": "toy"})
    fake("report", show=lambda report: print("table"))
    report = tmp_path / "report.json"
    done = run("measure", "one", "two", "--data", "d", "--baseline", "base", "--json", str(report), "--label", "stars")
    assert (done.exit_code, done.stdout, json.loads(report.read_text())) == (0, "table\n", {"task": "toy"})
    columns = dict(text="", pair="", label="stars", task=None)
    aspects = dict(only=None, more=[], welcome=[], region="world", far=None, reseeded=None, threads=None)
    aspects |= dict(energy_by="best", loyalty_base="2")
    assert seen.pop() == (["one", "two"], dict(data="d", baseline="base", progress=None, **aspects, **columns))
    again = run("measure", "one", "--data", "d", "--json", str(report))
    assert again.exit_code == 1 and "exists; choose another name, or add --force" in again.stderr and not seen
    assert json.loads(run("measure", "one", "--data", "d", "--json", "-").stdout) == {"task": "toy"}
    seen.clear()
    page = tmp_path / "page.html"
    fake("report.page", render=lambda report: f"<p>{report['task']}", template=lambda: None)
    wide = "--only speed,loyalty --robustness --attack --energy --reasons --region DEU --far f.csv --reseeded twin"
    assert run("measure", "one", "--data", "d", *wide.split(), "--html", str(page)).exit_code == 0
    assert page.read_text() == "<p>toy"
    [(_, words)] = seen
    assert words["only"] == ["speed", "loyalty"] and words["region"] == "DEU"
    assert words["more"] == ["robustness", "attack", "energy", "reasons"] and words["far"] == "f.csv"
    assert words["welcome"] == ["worst"], "a page shows the worst examples where there are some, and asks for none"
    assert words["reseeded"] == "twin"
    assert run("measure", "one", "--data", "d", "--html", str(page)).exit_code == 1 and len(seen) == 1, "nothing lost"


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An engine that answers with the length of the text, and remembers how it was called."""
    seen = SimpleNamespace(loaded=[], windows=[], more={})

    def answers(reads: Any, texts: list[str], pairs: list[str] | None, batch_size: int) -> list[int]:
        seen.windows.append((len(texts), pairs, batch_size))
        if "bad" in texts:
            raise ValueError("found bad, expected good")
        return [len(text) for text in texts]

    def told(answer: int) -> dict[str, Any]:
        return {"label": "long" if answer > 3 else "short", "score": 0.5}

    def load(folder: str, engine: str = "auto", threads: int | None = None, **more: Any) -> SimpleNamespace:
        seen.loaded.append((folder, engine, threads))
        seen.more = more
        task = SimpleNamespace(kind="text-classification", told=told)
        name = "fast" if engine == "auto" else engine
        return SimpleNamespace(name=name, task=task, reads=lambda texts, pairs: [None] * len(texts), answers=answers)

    monkeypatch.setattr("gossamer.engines.load", load)
    return seen


def test_predict_is_a_filter(engine: SimpleNamespace) -> None:
    done = run("predict", "folder", stdin="ab\nabcdé\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [{"label": "short", "score": 0.5}, {"label": "long", "score": 0.5}]
    assert (done.exit_code, done.stderr, engine.loaded) == (0, "", [("folder", "auto", None)])
    echoed = run("predict", "folder", "--echo", stdin="abcdé\n").stdout
    assert echoed == '{"text": "abcdé", "label": "long", "score": 0.5}\n'


def test_predict_refuses_columns_that_are_not_there(engine: SimpleNamespace) -> None:
    for words, given in (
        (["--text", "sentnce"], '{"sentence": "w1 w2"}\n'),
        (["--text", "sentnce"], "sentence,label\nw1 w2,a\n"),
        (["--pair", "secnd"], '{"text": "w1", "sentence": "w2"}\n'),
    ):
        done = run("predict", "folder", "--echo", *words, stdin=given)
        assert (done.exit_code, done.stdout) == (1, "") and f"no column '{words[1]}'; it has: " in done.stderr
        assert "'sentence'" in done.stderr and f"name the right one with {words[0]}" in done.stderr


def test_predict_reads_and_writes_files(engine: SimpleNamespace, tmp_path: Path) -> None:
    given, out = tmp_path / "given.txt", tmp_path / "out.jsonl"
    given.write_text("one\nthree\n")
    args = ["predict", "folder", "--input", str(given), "--output", str(out)]
    assert run(*args).exit_code == 0 and len(out.read_text().splitlines()) == 2
    out.write_text("precious")
    done = run(*args)
    assert done.exit_code == 1 and out.read_text() == "precious" and "add --force to replace it" in done.stderr
    assert run(*args, "--force").exit_code == 0 and len(out.read_text().splitlines()) == 2
    assert run("predict", "folder", "--input", str(given), "--output", os.devnull).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.txt", "out.jsonl"]


def test_a_prediction_that_fails_at_once_leaves_no_file(engine: SimpleNamespace, tmp_path: Path) -> None:
    done = run("predict", "folder", "--output", str(tmp_path / "out"), stdin="good\nbad\n")
    assert (done.exit_code, done.stderr) == (1, "error: found bad, expected good\n")
    assert not list(tmp_path.iterdir())
    missing = run("predict", "folder", "--input", str(tmp_path / "none.csv"))
    assert missing.exit_code == 1 and "none.csv" in missing.stderr and not engine.loaded[1:]


def test_a_prediction_that_fails_later_goes_on_when_what_is_wrong_was_mended(
    engine: SimpleNamespace, tmp_path: Path
) -> None:
    given, out, part = tmp_path / "given.txt", tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    given.write_text("good\n" * 100 + "bad\n" + "go\n" * 9)
    args = ["predict", "folder", "--input", str(given), "--output", str(out), "--batch-size", "1"]
    done = run(*args, "--engine", "torch", "--threads", "2")
    assert (done.exit_code, engine.loaded) == (1, [("folder", "torch", 2)]) and not out.exists()
    kept = f"{part} keeps 96 answers; the same command with --resume continues"
    assert len(part.read_text().splitlines()) == 96
    again = run(*args)
    assert again.exit_code == 1 and f"{part} holds 96 answers of a run that has not ended; add --resume" in again.stderr
    other = run(*args, "--resume", "--echo")
    assert other.exit_code == 1 and "another run (echo was False, now True); type what was typed then" in other.stderr
    assert engine.loaded[1:] == [("folder", "torch", None)], "the engine of the answers that are there"
    given.write_text("good\n" * 100 + "mended\n" + "go\n" * 9)
    engine.windows.clear()
    assert run(*args, "--resume").exit_code == 0
    assert [n for n, *_ in engine.windows] == [14] and kept not in again.stderr
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == ["long"] * 101 + ["short"] * 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.txt", "out.jsonl"]


def test_predict_chooses_an_engine_by_the_file_and_the_batches(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def expected(*given: Any) -> dict[str, Any]:
        asked.append(given)
        return {"batch_size": given[2], "lengths": (3,)}

    monkeypatch.setattr("gossamer.engines.choice.expected", expected)
    (tmp_path / "given.jsonl").write_text('{"own": "one", "second": "two"}\n')
    args = ["predict", "folder", "--input", str(tmp_path / "given.jsonl"), "--batch-size", "8"]
    assert run(*args, "--text", "own", "--pair", "second").exit_code == 0
    assert engine.more == {"batch_size": 8, "lengths": (3,)}
    assert asked == [(Path("folder"), str(tmp_path / "given.jsonl"), 8, "own", "second")]
    run(*args, "--text", "own", "--engine", "torch")
    assert engine.more == {} and len(asked) == 1, "it is named"


def test_over_a_cluster_an_engine_is_chosen_as_its_actors_will_run_it(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gossamer.engines import cluster

    monkeypatch.setattr(cluster, "windows", lambda rows, *where, **how: ((list(rows), [{}]) for _ in "1"))
    assert run("predict", "folder", "--ray", "local", stdin="a\n").exit_code == 0
    assert engine.loaded == [("folder", "auto", 1)]


def test_predict_takes_a_precision(engine: SimpleNamespace, tmp_path: Path) -> None:
    given, out = tmp_path / "given.txt", tmp_path / "out.jsonl"
    given.write_text("good\n" * 100 + "bad\n")
    args = ["predict", "folder", "--input", str(given), "--output", str(out), "--batch-size", "1"]
    run(*args, "--engine", "openvino", "--precision", "bf16")
    assert engine.more == {"precision": "bf16"}
    other = run(*args, "--resume")
    assert other.exit_code == 1 and "another run" in other.stderr, "answers of another precision"
    refused = run("predict", "folder", "--ray", "local", "--precision", "bf16", stdin="a\n")
    assert refused.exit_code == 1 and "with --ray artefacts answer as they were saved" in refused.stderr
    run("predict", "folder", stdin="a\n")
    assert engine.more == {}


def test_there_is_nothing_to_resume_on_a_stream(engine: SimpleNamespace) -> None:
    done = run("predict", "folder", "--resume", stdin="a\n")
    assert (done.exit_code, done.stdout) == (1, "") and "--resume needs --output FILE" in done.stderr


def test_predict_gives_its_rows_to_a_cluster(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gossamer.engines import cluster

    seen: list[Any] = []

    def windows(rows: Iterator[Any], *where: Any, **how: Any) -> Iterator[Any]:
        print("(raylet) news of Ray")
        seen.append((where, how))
        yield list(rows), [{"label": "a"}, {"label": "b"}]

    monkeypatch.setattr(cluster, "windows", windows)
    done = run("predict", "folder", "--ray", "local", "--threads", "2", "--batch-size", "4", stdin="a\nb\n")
    assert (done.stdout, done.stderr) == ('{"label": "a"}\n{"label": "b"}\n', "(raylet) news of Ray\n")
    how = dict(batch_size=4, threads=2, size=128, live=False)
    assert seen == [(("folder", "local", "fast"), how)]


def test_predict_holds_a_window_not_the_input(engine: SimpleNamespace, fake: Fake) -> None:
    read = 0

    def lines(source: str, **columns: Any) -> Iterator[tuple[str, None]]:
        nonlocal read
        for i in range(3000):
            read = i + 1
            assert read <= sum(n for n, *_ in engine.windows) + (AHEAD + 2) * 4 * WINDOW
            yield "text", None

    fake("data", lines=lines)
    assert len(run("predict", "folder", "--batch-size", "4").stdout.splitlines()) == 3000 == read
    assert max(n for n, *_ in engine.windows) == 4 * WINDOW and {size for *_, size in engine.windows} == {4}


def test_texts_with_and_without_a_pair_are_kept_apart(engine: SimpleNamespace, fake: Fake) -> None:
    rows = [("a", None), ("b", "c"), ("d", ""), ("e", None)]
    fake("data", lines=lambda source, **columns: iter(rows))
    done = run("predict", "folder", "--echo")
    assert [pairs for _, pairs, _ in engine.windows] == [None, ["c", ""], None]
    assert [json.loads(line).get("text_pair") for line in done.stdout.splitlines()] == [None, "c", "", None]


PREDICTS = """
from types import SimpleNamespace
import gossamer.engines
task = SimpleNamespace(kind="text-classification", told=lambda answer: {"label": "x" * 500})
answer = SimpleNamespace(name="fast", task=task, reads=lambda *given: [], answers=lambda reads, texts, *more: texts)
gossamer.engines.load = lambda folder, **how: answer
"""


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['gossamer', 'predict', 'f']{PREDICTS}\nfrom gossamer.cli import main; main()"
    given = tmp_path / "given.txt"
    given.write_text("line\n" * 20_000)
    with given.open() as stdin:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=stdin, stdout=-1, stderr=-1)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
        process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    done = alone("predict", "f", "--output", "/dev/full", before=PREDICTS, input="line\n" * 100)
    assert (done.returncode, done.stderr) == (1, "error: no space left on device\n")


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("found a,\n expected b"), 1, "error: found a, expected b"),
        (FileNotFoundError("no file x; expected y"), 1, "error: no file x; expected y"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "error: no space left on device: x"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 1, "error: 'utf-8' codec can't decode byte 0xff"),
        (ModuleNotFoundError("No module", name="torch"), 1, 'found no torch, which this needs; type pip install "goss'),
        (ModuleNotFoundError("No module", name="pyarrow.parquet"), 1, 'pip install "gossamer[parquet]"'),
        (ImportError("engine 'onnxruntime' is not installed; type: ..."), 1, "error: engine 'onnxruntime' is not"),
        (ImportError("cannot import x", name="gossamer"), 3, "error: ImportError: cannot import x; this is a mistake"),
        (MemoryError(), 1, "error: out of memory"),
        (AssertionError("the reloaded model answers differently"), 3, "error: a check failed: the reloaded model ans"),
        (AssertionError(), 3, "error: a check failed: AssertionError"),
        (RuntimeError("shape mismatch"), 3, "error: RuntimeError: shape mismatch; this is a mistake in gossamer"),
        (KeyboardInterrupt(), 130, "interrupted; the same command with --resume continues"),
    ],
)
def test_every_failure_is_one_line_and_a_code(error: BaseException, code: int, line: str) -> None:
    found, said = told(error, "compress")
    assert found == code and line in said and "\n" not in said


def test_commands_end_with_the_code_and_debug_shows_where(calls: list[Any], fake: Fake, tmp_path: Path) -> None:
    def compress(*args: Any, **words: Any) -> Any:
        raise KeyboardInterrupt

    fake("pipeline", compress=compress)
    base = ["compress", "model", "--data", "d", "--recipe", "A", "--out", str(tmp_path / "out")]
    done = run(*base)
    assert (done.exit_code, done.stderr) == (130, "interrupted; the same command with --resume continues\n")
    for args in ([*base, "--debug"], ["--debug", *base]):
        done = run(*args)
        assert done.exit_code == 130 and "Traceback" in done.stderr and done.stderr.endswith("continues\n")


def test_a_missing_extra_says_what_to_install(tmp_path: Path) -> None:
    absent = "sys.modules['torch'] = None"
    done = alone("compress", "m", "--data", "d", "--recipe", "Int8()", "--out", str(tmp_path / "out"), before=absent)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'error: found no torch, which this needs; type pip install "gossamer[compress]"\n'


@pytest.mark.parametrize("given", [b"", b"one\ntwo\n"])
def test_ctrl_c_while_waiting_for_input(given: bytes, tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['gossamer', 'predict', 'f', '--output', 'out']{PREDICTS}"
    code += "\nfrom gossamer.cli import main; main()"
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs have it turned off
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, cwd=tmp_path, preexec_fn=heard
    )
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.flush()
    memo, deadline = tmp_path / "out.part.json", time.monotonic() + 60
    while time.monotonic() < deadline:
        if memo.exists() and json.loads(memo.read_text())["rows"] == given.count(b"\n"):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    left = {path.name for path in tmp_path.iterdir()}
    after, files = ("no file was written", set()) if not given else (CONTINUES, {"out.part", "out.part.json"})
    assert (process.returncode, said.decode(), left) == (130, f"interrupted; {after}\n", files)


def test_a_pace_is_told_once_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    shown, now = list[Any](), iter([0.0, 1.0, 10.0, 20.0])
    pace = Pace("fast: in to out", lambda *told: shown.append(told), 0.2, clock=lambda: next(now))
    pace.tell(50, 0.25)
    assert capsys.readouterr().err == "", "too soon to say"
    pace.tell(1000, 0.3)
    pace.tell(2000, 0.4)
    assert capsys.readouterr().err == "fast: in to out: about 70 s more, at 100 texts a second\n"
    assert shown[-1] == ("texts", 0.4, "2,000 answered, 100 a second") and len(shown) == 3
    now = iter([0.0, 10.0, 20.0])
    pace = Pace("fast: pipe", lambda *told: shown.append(told), clock=lambda: next(now))
    pace.tell(10, None)
    pace.tell(20, None)
    assert capsys.readouterr().err == "" and shown[-1][1] is None, "nobody knows the end of a pipe"
    Pace("fast: short", None).tell(1, 0.5)
    assert len(shown) == 5


def test_a_bar_goes_on_without_knowing_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(watched=False) as bar:
        assert bar is None
    with progress() as bar:
        assert bar is not None
        bar("texts", None, "7 answered")
        bar("texts", 0.5, "9 answered")


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt), writing(str(file)) as stream:
        stream.write("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="exists"), writing(str(file)) as stream:
        file.write_text("someone else's")
        stream.write("ours")
    assert file.read_text() == "someone else's" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError, match="is a folder, expected the name of a file"), writing(str(tmp_path)):
        pass
