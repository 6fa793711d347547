"""What people really type and own: each mistake is one clear line and an exit code, and nothing is lost."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gossamer import artefact, pipeline
from gossamer.cli import app
from gossamer.runtime.manifest import FORMAT, MANIFEST
from tests import small, texts

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    texts.folder(folder / "model")
    texts.file(folder / "data.csv")
    job = small.after(small.job(folder / "job"), "DRONE")
    artefact.save(job.model, folder / "artefact", tokenizer=texts.tokenizer(), probe=small.batch(), verify=False)
    return folder


@pytest.fixture
def compress(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`gossamer compress` of the small model, with other options: the exit code and the last line of stderr."""
    monkeypatch.setattr(pipeline, "graph", lambda job, part: None)
    monkeypatch.setattr(artefact, "in_fresh_process", lambda folder: None)

    def run(**given: Any) -> tuple[int, str]:
        options = {"data": place / "data.csv", "recipe": "Share(groups=2)", "out": tmp_path / "out", "max_steps": 1}
        options |= given
        model = str(options.pop("model", place / "model"))
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        done = CliRunner().invoke(app, ["compress", model, "--no-autocast", *words])
        assert "Traceback" not in done.output
        return done.exit_code, (done.stderr.strip().splitlines() or [""])[-1]

    return run


def written(place: Path, rows: list[list[str]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with place.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return place


ROWS = [list(row) for row in texts.rows(60)]
BAD_DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "nowhere.csv", r"nowhere.csv"),
    "empty": (lambda p: written(p / "a.csv", [], ()), r"a.csv.*(is empty|no rows|nothing)"),
    "header only": (lambda p: written(p / "a.csv", []), r"a.csv.*(no rows|empty|no examples)"),
    "wrong columns": (lambda p: written(p / "a.csv", ROWS, ("review", "stars")), r"no column 'text'; it has: 'review'"),
    "one class": (lambda p: written(p / "a.csv", [[t, "yes"] for t, _ in ROWS]), r"one class|only .*yes"),
    "ragged": (lambda p: written(p / "a.csv", [*ROWS, ["only a text"]]), r"line 6\d"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name: str, compress: Run, tmp_path: Path) -> None:
    import re

    make, sentence = BAD_DATA[name]
    code, line = compress(data=make(tmp_path))
    assert code == 1 and line.startswith("error: ") and re.search(sentence, line), line
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.work").exists()


def test_bytes_that_are_not_utf_8(compress: Run, tmp_path: Path) -> None:
    file = texts.file(tmp_path / "a.csv")
    file.write_bytes(file.read_bytes().replace(b"w10", b"w\xe9\xff", 1))
    code, line = compress(data=file)
    assert code == 1 and "UTF-8" in line and "line" in line, line


def test_a_label_unseen_in_training(compress: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder / "train.csv", ROWS[:40])
    written(folder / "test.csv", [*ROWS[40:], ["w30 w31", "perhaps"]])
    code, line = compress(data=folder)
    assert code == 1 and "perhaps" in line and "train" in line, line


def test_labels_that_the_model_does_not_know(compress: Run, tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", [[t, {"no": "cat", "yes": "dog"}[label]] for t, label in ROWS])
    code, line = compress(data=file)
    assert code == 1 and "cat" in line and "no" in line, line


def test_a_text_of_100_000_characters(compress: Run, tmp_path: Path) -> None:
    long = "w11 " * 25_000
    code, line = compress(data=written(tmp_path / "a.csv", [*ROWS, [long, "yes"], ["x" * 100_000, "no"], ["", "no"]]))
    assert code == 0, line
    (tmp_path / "lines.txt").write_text(f"{long}\n{'y' * 100_000}\n\nw10 w30\n")
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "out"), "--input", str(tmp_path / "lines.txt")])
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0 and len(said) == 4 and all(0 <= one["score"] <= 1 for one in said)


RECIPES = {
    "Sparsify()": r"no method is called 'Sparsify'",
    "Cofi(0.5)": r"did you mean CoFi\?",
    "CoFi(sparsty=0.5)": r"no field of CoFi is called 'sparsty'; did you mean sparsity\?",
    "CoFi(0.999)": r"CoFi\(sparsity=...\): found 0.999, expected a number from 0.05 to 0.98; type for example",
    "Theseus(layers='two')": r"found 'two', expected a whole number",
    "then(CoFi(": r"the recipe is not an expression",
    "": r"the recipe is empty",
    "__import__('os').system('touch hacked')": r"a recipe holds methods, then, also and plain values only",
    "(lambda: open('hacked', 'w'))()": r"a recipe holds methods, then, also and plain values only",
    "Int8(embeddings=[open('hacked', 'w')])": r"expected a plain value; a recipe holds",
    "then(*[Int8()] * 10**9)": r"a recipe holds methods",
    "CoFi(" + "9" * 5000 + ")": r"(too deep, or not text|2\*\*63 or more|not an expression)",
    "then(" * 40 + "Int8()" + ")" * 40: r"nested more than",
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe[:30])
def test_bad_recipes(recipe: str, compress: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    code, line = compress(recipe=recipe)
    assert code == 1 and re.search(RECIPES[recipe], line), line
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_does_not_fit_costs_no_training(compress: Run, tmp_path: Path) -> None:
    code, line = compress(recipe="then(Share(groups=2), Theseus(layers=3))")
    assert code == 1 and line.startswith("error: Theseus comes too late"), line
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number(compress: Run, place: Path, tmp_path: Path) -> None:
    model = small.model()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.fill_(3e38)
    code, line = compress(model=texts.folder(tmp_path / "wild", model), recipe="Theseus()")
    assert code == 1 and "the loss became nan at step 1 of 1 of stage 'replace'; try a lower learning rate" in line
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there(compress: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, line = compress(model=tmp_path / "nowhere")
    assert code == 1 and "nowhere is neither a folder with a config.json nor a model that can be fetched" in line, line


def test_an_output_that_exists(compress: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    code, line = compress()
    assert code == 1 and "is not empty; choose another folder" in line
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"
    (tmp_path / "file").write_text("precious")
    code, line = compress(out=tmp_path / "file")
    assert code == 1 and "is a file, expected a folder" in line and (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("command", ["predict", "measure", "compress"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "newer", "lost", "absent"])
def test_a_damaged_artefact(command: str, damage: str, place: Path, compress: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(place / "artefact", broken)
    weights, manifest = broken / "model.safetensors", json.loads((broken / MANIFEST).read_text())
    content = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(content[:-100])
    elif damage == "flipped":
        weights.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "newer":
        (broken / MANIFEST).write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    elif damage == "lost":
        weights.unlink()
    else:
        shutil.rmtree(broken)
    (tmp_path / "lines.txt").write_text("w10\n")
    if command == "compress":
        code, line = compress(model=broken, recipe="Int8()")
    else:
        rest = {"predict": ["--input", tmp_path / "lines.txt"], "measure": ["--data", place / "data.csv"]}[command]
        done = CliRunner().invoke(app, [command, str(broken), *map(str, rest)])
        assert "Traceback" not in done.output and done.stdout == ""
        code, line = done.exit_code, done.stderr.strip().splitlines()[-1]
    said = {
        "truncated": "model.safetensors is damaged", "flipped": "model.safetensors is damaged",
        "newer": f"has artefact format {FORMAT + 1}, and this version reads up to format {FORMAT}",
        "lost": "lacks model.safetensors", "absent": "broken",
    }[damage]  # fmt: skip
    assert code == 1 and line.startswith("error: ") and said in line, line
    assert not (tmp_path / "out").exists()


def test_a_full_disk(compress: Run, place: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        large = texts.folder(tmp_path / "large", small.model(type_vocab_size=20_000))  # 2.5 MB
        code, line = compress(model=large, recipe="Theseus()", out=disk / "out")
        assert code == 1 and line.startswith("error: ") and ("disk is full" in line or "no space left" in line), line
        assert not (disk / "out").exists() and not list(disk.glob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        words = ["--recipe", "Theseus()", "--out", str(disk / "out"), "--max-steps", "1", "--no-autocast", "--resume"]
        done = CliRunner().invoke(app, ["compress", str(large), "--data", str(place / "data.csv"), *words])
        assert done.exit_code == 0, done.stderr
        assert [p.name for p in disk.iterdir()] == ["out"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
