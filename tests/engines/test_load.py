import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gossamer import engines
from gossamer.runtime.manifest import seal

TEXTS = ["it was the best of films", "", "w1", "the worst , the worst", "w3 " * 300]
SCRIPT = """
import json, sys
import gossamer
model = gossamer.load(sys.argv[1])
answers = model(sys.argv[2:], batch_size=2)
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps([model.name, model.labels, heavy, answers, model.logits(sys.argv[2:]).tolist()]))
"""


def test_a_fresh_process_answers_without_torch_as_torch_does(artefact):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, artefact.folder, *TEXTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    name, labels, heavy, answers, logits = json.loads(done.stdout)
    assert name == "onnxruntime" and labels == ["bad", "good", "so-so"] and heavy == []
    with_torch = engines.load(artefact.folder, engine="torch", threads=1)
    assert with_torch.name == "torch" and with_torch.labels == ("bad", "good", "so-so")
    assert np.abs(with_torch.logits(TEXTS) - logits).max() < artefact.written.tolerance
    assert [one["label"] for one in with_torch(TEXTS)] == [one["label"] for one in answers]


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_an_answer_depends_on_no_batch_mate(artefact, engine):
    model = engines.load(artefact.folder, engine=engine, threads=1)
    alone = np.concatenate([model.logits([text]) for text in TEXTS])
    assert np.abs(model.logits(TEXTS) - alone).max() < 1e-5
    pairs = list(reversed(TEXTS))
    alone = np.concatenate([model.logits([a], [b]) for a, b in zip(TEXTS, pairs, strict=True)])
    assert np.abs(model.logits(TEXTS, pairs) - alone).max() < 1e-5


def test_the_torch_engine_leaves_the_number_of_threads(artefact):
    import torch

    before = torch.get_num_threads()
    model = engines.load(artefact.folder, engine="torch", threads=before + 1)
    model.logits(TEXTS)
    assert torch.get_num_threads() == before
    assert model.model is not None and not model.model.training


def test_a_folder_without_a_graph_runs_on_torch(artefact, save, tmp_path):
    folder = save(artefact.model, tmp_path / "plain")
    assert engines.load(folder).name == "torch"
    with pytest.raises(FileNotFoundError, match=r'carries no graph \(model.onnx\); load it with engine="torch"'):
        engines.load(folder, engine="onnxruntime")


@pytest.mark.parametrize(("engine", "extra"), [("onnxruntime", "onnxruntime"), ("torch", "compress")])
def test_what_is_missing_is_named(artefact, monkeypatch, engine, extra):
    monkeypatch.setattr(engines, "_has", lambda package: package != engine)
    with pytest.raises(
        ImportError, match=rf'engine \'{engine}\' is not installed; type: pip install "gossamer\[{extra}\]"'
    ):
        engines.load(artefact.folder, engine=engine)


def test_auto_takes_what_is_there(artefact, monkeypatch):
    monkeypatch.setattr(engines, "_has", lambda package: package != "onnxruntime")
    assert engines.load(artefact.folder).name == "torch"
    monkeypatch.setattr(engines, "_has", lambda package: False)
    with pytest.raises(ImportError, match=r"gossamer\[onnxruntime\]"):
        engines.load(artefact.folder)


def test_wrong_arguments_are_said(artefact, tmp_path):
    with pytest.raises(ValueError, match="unknown engine 'tvm', expected one of: auto, onnxruntime, torch"):
        engines.load(artefact.folder, engine="tvm")
    with pytest.raises(ValueError, match="threads is 0, expected 1 or more"):
        engines.load(artefact.folder, threads=0)
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'; expected one that gossamer compress wrote"):
        engines.load("nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no model \(no config.json\)"):
        engines.load(tmp_path)


@pytest.fixture
def copy(artefact, tmp_path):
    import shutil

    return Path(shutil.copytree(artefact.folder, tmp_path / "copy"))


def test_a_damaged_artefact_is_said(copy):
    seal(copy)
    engines.load(copy, engine="onnxruntime")
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-9] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: .*; copy the artefact again from its source"):
        engines.load(copy, engine="onnxruntime")


def test_a_damaged_graph_is_said(copy):
    (copy / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=r'onnxruntime .* cannot run .*model.onnx .*load it with engine="torch"'):
        engines.load(copy)


def test_bytes_are_added_exactly_without_vnni(artefact, monkeypatch):
    from gossamer.engines import onnxruntime

    expected = engines.load(artefact.folder, "onnxruntime", 1).logits(TEXTS)
    monkeypatch.setattr(onnxruntime, "hardware", lambda: {"instructions": ["avx2"]})
    monkeypatch.setattr(onnxruntime.platform, "machine", lambda: "x86_64")
    assert onnxruntime._saturates()
    assert np.allclose(engines.load(artefact.folder, "onnxruntime", 1).logits(TEXTS), expected, atol=1e-6)
    monkeypatch.setattr(onnxruntime.platform, "machine", lambda: "arm64")
    assert not onnxruntime._saturates()
