"""Operating points: one pass tells what every threshold does; a chosen one goes with the artefact, or with the call."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from gossamer import artefact, engines, points
from gossamer.cli import app
from gossamer.engines import export
from gossamer.replay import exits_of, record
from gossamer.runtime.manifest import check, seal
from gossamer.task import Classification
from tests import small, texts

WORDS = [" ".join(f"w{(7 * i + j * j) % 80}" for j in range(2 + 3 * i % 11)) for i in range(40)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An artefact of DeeBERT with its graphs, texts whose labels the model mostly knows, and the model."""
    folder = tmp_path_factory.mktemp("points")
    job = small.after(small.job(folder / "job", layers=3), "DeeBERT")
    torch.manual_seed(0)
    exits = exits_of(job.model)
    for module in exits.heads.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(std=1.5 / module.in_features**0.5)
    tokenizer = texts.tokenizer()
    batch = tokenizer(WORDS, padding=True, return_tensors="pt")
    given = {k: batch[k] for k in ("input_ids", "attention_mask")}
    said = record(job.model, [given])
    exits.threshold = float(said.scores[0].median())
    labels = said.logits[-1].argmax(-1).numpy().copy()
    labels[::5] = 1 - labels[::5]
    place = artefact.save(
        job.model, folder / "a", tokenizer=tokenizer, verify=False,
        also=lambda part: export.write(job.model, tokenizer, part),
    )  # fmt: skip
    file = folder / "data.jsonl"
    rows = ({"text": t, "label": small.LABELS[y]} for t, y in zip(WORDS, labels.tolist(), strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SimpleNamespace(model=job.model, folder=place, labels=labels, given=given, data=file)


def curve(made: Any) -> points.Curve:
    return points.curve(made.model, [made.given], made.labels, Classification(small.LABELS))


def test_the_curve_reaches_from_the_first_exit_to_the_whole_model(made: Any) -> None:
    found = curve(made)
    layers = [one.layers for one in found.points]
    assert layers == sorted(layers) and layers[0] == 1.0 and layers[-1] == 3.0 and len(layers) > 5
    last = found.points[-1]
    assert last.drop == 0 and last.consistent == 1 and last.speedup == 1 and last.quality == pytest.approx(0.8)
    assert found.points[0].speedup == 3 and found.texts == 40 and found.criterion == "Entropy"


def test_what_is_asked_is_found(made: Any) -> None:
    found = curve(made)
    fast = points.chosen(found, speedup=1.5)
    assert fast.speedup >= 1.5 and all(one.quality <= fast.quality for one in found.points if one.speedup >= 1.5)
    safe = points.chosen(found, max_drop=1.0)
    assert safe.drop <= 1.0 and all(one.drop > 1.0 for one in found.points if one.layers < safe.layers)
    with pytest.raises(ValueError, match=r"no threshold gives a speed-up of 9; the largest is 3.00 of the layers"):
        points.chosen(found, speedup=9)
    with pytest.raises(ValueError, match="expected one of max_drop and speedup"):
        points.chosen(found)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_a_threshold_is_given_with_the_call(made: Any, engine: str) -> None:
    whole = record(made.model, [made.given]).logits
    for threshold, wanted in ((-1.0, whole[-1]), (10.0, whole[0])):
        said = engines.load(made.folder, engine, threshold=threshold).logits(WORDS)
        assert np.abs(said - wanted.numpy()).max() < 1e-4
    own = engines.load(made.folder, engine).logits(WORDS)
    assert np.abs(own - whole[0].numpy()).max() > 0.01 < np.abs(own - whole[-1].numpy()).max()


def test_a_threshold_without_exits_is_refused(tmp_path: Path) -> None:
    texts.folder(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"threshold=0.5 is for exits, and '.*plain' has none; leave it out"):
        engines.load(tmp_path / "plain", "torch", threshold=0.5)


def test_the_command_shows_chooses_and_writes(made: Any, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["exits", str(made.folder), *words])

    shown = run("--data", str(made.data))
    assert shown.exit_code == 0 and "fewer layers" in shown.stdout and "choose with" in shown.stdout
    done = run("--data", str(made.data), "--speedup", "1.5", "--out", str(tmp_path / "fast"), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    threshold = told["chosen"]["threshold"]
    assert told["chosen"]["speedup"] >= 1.5 and told["out"] == str(tmp_path / "fast")
    check(tmp_path / "fast")
    assert artefact.compare(tmp_path / "fast") < 1e-6
    assert exits_of(artefact.load(tmp_path / "fast")).threshold == threshold
    for engine in engines.ENGINES:
        wanted = engines.load(made.folder, engine, threshold=threshold).logits(WORDS)
        assert np.allclose(engines.load(tmp_path / "fast", engine).logits(WORDS), wanted, atol=1e-5)
    kept = CliRunner().invoke(app, ["exits", str(tmp_path / "fast"), "--max-drop", "100"])
    assert kept.exit_code == 0 and kept.stdout.strip().splitlines()[-1].startswith("threshold ")
    again = run("--data", str(made.data), "--speedup", "1.5", "--out", str(tmp_path / "fast"))
    assert again.exit_code != 0 and "exists and is not empty" in again.output
    nothing = run("--data", str(made.data), "--out", str(tmp_path / "other"))
    assert nothing.exit_code != 0 and "add --max-drop" in nothing.output and not (tmp_path / "other").exists()
    none = run("--speedup", "1.5")
    assert none.exit_code != 0 and "keeps no curve of its exits" in none.output


def test_predict_takes_a_threshold(made: Any, tmp_path: Path) -> None:
    source, said = tmp_path / "texts.txt", {}
    source.write_text("".join(f"{text}\n" for text in WORDS))
    for name, level in (("never", "-1"), ("always", "10")):
        out = tmp_path / f"{name}.jsonl"
        done = CliRunner().invoke(
            app, ["predict", str(made.folder), "--input", str(source), "--output", str(out), "--threshold", level]
        )
        assert done.exit_code == 0, done.output
        said[name] = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    whole = record(made.model, [made.given]).logits.softmax(-1).amax(-1)
    assert said["never"] == pytest.approx(whole[-1].tolist(), abs=1e-3)
    assert said["always"] == pytest.approx(whole[0].tolist(), abs=1e-3)
    refused = CliRunner().invoke(app, ["predict", str(made.folder), "--ray", "local", "--threshold", "1"])
    assert refused.exit_code != 0 and "the artefact's own threshold holds" in refused.output


def test_what_loses_too_much_is_not_taken(made: Any) -> None:
    found = curve(made)
    least = min(one.drop for one in found.points)
    with pytest.raises(
        ValueError, match=rf"no threshold loses -50 points or less; the least that one loses is {least:.2f}"
    ):
        points.chosen(found, max_drop=-50.0)


def test_texts_are_read_as_in_use(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve is of as many tokens as the artefact reads, whatever others read."""
    seen, folder = list[int](), tmp_path / "short"
    shutil.copytree(made.folder, folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"model_max_length": 7}))
    seal(folder)
    monkeypatch.setattr(points, "record", lambda model, batches: seen.extend(b["input_ids"].shape[1] for b in batches)
                        or record(model, batches))  # fmt: skip
    for place, longest in ((folder, 7), (made.folder, 14)):
        seen.clear()
        points.asked(place, made.data)
        assert max(seen) == longest


def test_what_was_measured_before_says_so(made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(made.folder, folder)
    (folder / "report.json").write_text('{"task": "text"}')
    (folder / "README.md").write_text("# a\n")
    before = exits_of(made.model).threshold
    for source, out, threshold in ((folder, tmp_path / "b", -1.0), (tmp_path / "b", tmp_path / "c", 0.25)):
        points.settle(source, out, threshold)
        told = json.loads((out / "report.json").read_text())
        assert told == {"task": "text", "settled": {"measured": before, "threshold": threshold}}
        words = (out / "README.md").read_text()
        assert words.count("## Another threshold") == 1 and f"leave at {threshold:g} since" in words
        assert words.startswith("# a\n") and f"measured at {before:g};" in words
        check(out)
    back = points.settle(tmp_path / "c", tmp_path / "d", before)
    assert json.loads((back / "report.json").read_text()) == {"task": "text"}
    assert (back / "README.md").read_text() == "# a\n"


def test_consistency_is_promised_on_texts_of_its_own(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sizes(batches: list[Any]) -> list[int]:
        return [n for batch in batches for n in batch["attention_mask"].sum(1).tolist()]

    lengths = list[int]()
    found, point = points.asked(made.folder, made.data, consistent=0.9)
    assert point is not None and found.texts < 40 and point.consistent is not None
    lines = made.data.read_text().splitlines()
    file = tmp_path / "sorted.jsonl"
    file.write_text("".join(f"{line}\n" for line in sorted(4 * lines, key=len)))
    monkeypatch.setattr(points, "guaranteed", lambda model, batches, epsilon: lengths.extend(sizes(batches)) or 0.5)
    points.asked(made.folder, file, consistent=0.9)
    falls = sum(a > b for a, b in pairwise(lengths))
    assert falls > len(lengths) / 4, "a sorted file, or sorted parts of one, would fall once or twice"
    with pytest.raises(ValueError, match=r"found '.*', whose development texts may have been used.*type --data FILE"):
        points.asked(made.folder, tmp_path, consistent=0.9)
    with pytest.raises(ValueError, match="a guarantee needs texts that nothing was chosen by"):
        points.asked(made.folder, consistent=0.9)
    with pytest.raises(ValueError, match="found consistent 2, expected a share between 0 and 1"):
        points.asked(made.folder, made.data, consistent=2)
