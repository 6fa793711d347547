"""A folder that appears whole or not at all, tells the truth or refuses, and is written again as it was read."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from gossamer import artefact
from gossamer.gates import compact, gate_heads, gate_hidden
from gossamer.runtime.manifest import FORMAT, MANIFEST, check
from tests import small, texts


def cut() -> Any:
    """Uneven heads, and hidden dimensions gone: what no plain config can say."""

    class Gate(torch.nn.Module):
        def __init__(self, size: int, gone: list[int]) -> None:
            super().__init__()
            self.z = torch.ones(size)
            self.z[gone] = 0

        def forward(self) -> torch.Tensor:
            return self.z

    from gossamer.anatomy import blocks
    from gossamer.forms import settle

    model = small.model()
    for i, block in enumerate(blocks(model)):
        gate_heads(block, Gate(4, list(range(i))))
    gate_hidden(model, Gate(32, [3, 17, 30]))
    settle(model)
    compact(model)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with a tokenizer."""
    place = tmp_path_factory.mktemp("artefact") / "cut"
    return artefact.save(cut(), place, tokenizer=texts.tokenizer(), probe=small.batch(), verify=False)


def test_uneven_cuts_are_read_back(folder: Path) -> None:
    read = artefact.load(folder)
    assert torch.allclose(small.logits(read), small.logits(cut()), atol=1e-6, rtol=0)
    assert [layer.attention.self.query.out_features for layer in read.bert.encoder.layer] == [32, 24, 16, 8]
    assert read.bert.embeddings.word_embeddings.embedding_dim == 29
    assert isinstance(read, type(small.model())) and artefact.compare(folder) <= 1e-6


def test_a_fresh_process_compares(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    shutil.copy(artefact.save(small.model(), tmp_path / "plain", verify=False) / artefact.PROBE, other / artefact.PROBE)
    (other / MANIFEST).unlink()  # so that the answers, and not the sums, tell
    with pytest.raises(RuntimeError, match=r"does not answer as the model did .* with a difference of"):
        artefact.in_fresh_process(other)


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "lost"])
def test_damage_to_any_file_is_told(folder: Path, tmp_path: Path, how: str) -> None:
    names = json.loads((folder / MANIFEST).read_text())["files"]
    assert {"config.json", "model.safetensors", "probe.safetensors", "tokenizer.json", "revive.py"} <= set(names)
    assert set(names) == {p.name for p in folder.iterdir()} - {MANIFEST}
    for name in names:
        damaged = tmp_path / f"{how}-{name}"
        shutil.copytree(folder, damaged)
        content = (damaged / name).read_bytes()
        if how == "lost":
            (damaged / name).unlink()
        else:
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            (damaged / name).write_bytes({"flipped": flipped, "truncated": content[:-1], "emptied": b""}[how])
        with pytest.raises((ValueError, FileNotFoundError)) as told:
            artefact.load(damaged)
        said = ("lacks", "has no config.json") if how == "lost" else ("is damaged",)
        assert name in str(told.value) and any(words in str(told.value) for words in said)
        shutil.rmtree(damaged)


def test_a_plain_load_looks_at_the_weights_too(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    with (damaged / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its sha256 is not the one in manifest.json"):
        AutoModelForSequenceClassification.from_pretrained(damaged)


def test_weights_that_end_too_soon_are_told_without_a_manifest(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / MANIFEST).unlink()
    for size in (5000, 4, 0):
        with (damaged / "model.safetensors").open("r+b") as file:
            file.truncate(size)
        with pytest.raises(
            ValueError, match=r"the weights in .*damaged are damaged \(.*\); copy them again from their"
        ):
            artefact.load(damaged)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1, "files": 3}', '{"format": "x", "files": {}}'])
def test_a_damaged_manifest_is_told(folder: Path, tmp_path: Path, content: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is damaged .*; copy it again from its source"):
        artefact.load(damaged)


def test_a_newer_format_is_refused(folder: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(folder, newer)
    manifest = json.loads((newer / MANIFEST).read_text())
    (newer / MANIFEST).write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    sentence = rf"has artefact format {FORMAT + 1}, and this version reads up to format {FORMAT}; upgrade with: pip"
    with pytest.raises(ValueError, match=sentence):
        artefact.load(newer)
    (newer / MANIFEST).unlink()
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps(config | {"gossamer_format": FORMAT + 1}))
    with pytest.raises(ValueError, match=sentence):
        AutoModelForSequenceClassification.from_pretrained(newer)


def test_a_part_that_is_not_known_is_refused(folder: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(folder, strange)
    (strange / MANIFEST).unlink()
    config = json.loads((strange / "config.json").read_text())
    config["gossamer"]["classifier"] = {"is": "Quantum", "bits": 1}
    (strange / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"contains a 'Quantum', which this version does not know .*; upgrade with"):
        artefact.load(strange)


def test_weights_that_do_not_fit_are_refused_not_made_up(folder: Path, tmp_path: Path) -> None:
    """The trap: transformers would fill in random numbers and go on."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / MANIFEST).unlink()
    state = load_file(broken / "model.safetensors")
    lost = state.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not hold the weights .*: bert.encoder.layer.1.output.dense.weight"):
        artefact.load(broken)
    state["bert.encoder.layer.1.output.dense.weight"] = lost[:, :3].contiguous()
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not hold the weights that its config describes: other shapes"):
        artefact.load(broken)


def test_a_model_that_was_read_is_written_again(folder: Path, tmp_path: Path) -> None:
    read = artefact.load(folder)
    read.save_pretrained(tmp_path / "again")
    check(tmp_path / "again")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "third")
    third = artefact.load(tmp_path / "third")
    assert torch.equal(small.logits(third), small.logits(read))
    files = {p.name for p in (tmp_path / "third").iterdir()}
    assert {"revive.py", "walks.py", MANIFEST} <= files
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "third" / name).read_bytes()
    shutil.rmtree(tmp_path / "again")
    made = artefact.save(read, tmp_path / "again", verify=False)
    assert torch.equal(small.logits(artefact.load(made)), small.logits(read))


def test_a_pipeline_reads_an_artefact(folder: Path) -> None:
    import gossamer  # noqa: F401 - this is what makes transformers know it

    said = pipeline("text-classification", str(folder))(["w11 w20 w30", "w12"])
    model, raw = artefact.load(folder), texts.tokenizer()
    given = raw(["w11 w20 w30"], return_tensors="pt")
    with torch.no_grad():
        best = model(**given).logits.softmax(-1)[0]
    assert said[0]["label"] == small.LABELS[int(best.argmax())] and abs(said[0]["score"] - float(best.max())) < 1e-5
    assert len(said) == 2


@pytest.mark.parametrize("layers", [2, 3])
def test_fewer_layers_are_a_plain_model(tmp_path: Path, layers: int) -> None:
    model = small.model()
    del model.bert.encoder.layer[layers:]
    for layer in model.bert.encoder.layer:  # narrower alike: a config can say so
        layer.intermediate.dense = torch.nn.Linear(32, 40)
        layer.output.dense = torch.nn.Linear(40, 32)
    place = artefact.save(model, tmp_path / "a", verify=False)
    config = json.loads((place / "config.json").read_text())
    assert config["model_type"] == "bert" and "auto_map" not in config and not list(place.glob("*.py"))
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (layers, 40)
    read = AutoModelForSequenceClassification.from_pretrained(place)
    assert torch.equal(small.logits(read.eval()), small.logits(model))


def test_a_taken_place_is_refused_and_kept(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("precious")
    with pytest.raises(ValueError, match="taken exists and is not empty; choose another folder"):
        artefact.save(small.model(), taken, verify=False)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ValueError, match="file exists"):
        artefact.save(small.model(), file, verify=False)
    assert (taken / "mine").read_text() == file.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]
    (tmp_path / "empty").mkdir()
    artefact.load(artefact.save(small.model(), tmp_path / "empty", verify=False))


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), RuntimeError("differs")])
def test_after_an_error_nothing_is_there(tmp_path: Path, error: BaseException) -> None:
    def fail(part: Path) -> None:
        assert not (tmp_path / "a").exists() and part.parent == tmp_path and (part / "model.safetensors").is_file()
        raise error

    with pytest.raises(type(error)):
        artefact.save(small.model(), tmp_path / "a", also=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        large = small.model(type_vocab_size=20_000)  # 2.5 MB
        with pytest.raises(OSError, match=r"the disk is full: .* MiB are left .*; make room, or choose another folder"):
            artefact.save(large, disk / "a", verify=False)
        assert list(disk.iterdir()) == []
        artefact.load(artefact.save(small.model(), disk / "a", verify=False))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder that gossamer compress wrote"):
        artefact.load(tmp_path / "nowhere")
    artefact.save(small.model(), tmp_path / "a", verify=False)
    (tmp_path / "a" / MANIFEST).unlink()
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged .*; copy it again"):
        artefact.load(tmp_path / "a")


def test_a_plain_folder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    model = small.model()
    state = {k: v for k, v in model.state_dict().items() if "layer.1.output.dense" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(
        ValueError, match=r"does not hold the weights that its config describes: bert\.encoder.*layer\.1"
    ):
        artefact.load(tmp_path)
