"""One artefact on three engines: they agree, they can be shared by threads, and they say what they cannot do."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from gossamer import engines, environment
from gossamer.runtime.manifest import seal

ROOT = Path(__file__).parents[2]
TEXTS = ["it was the best of films", "", "w1", "the worst , the worst", "w3 " * 300]
LONGEST = 60  # tokens, of which two are special
GRAPHS = ("openvino", "onnxruntime")
SCRIPT = """
import json, sys
import gossamer
model = gossamer.load(sys.argv[1], sys.argv[2])
answers = model(sys.argv[3:], batch_size=2)
heavy = [name for name in sys.modules if name.split(".")[0] in ("torch", "transformers") or "gossamer.metrics" in name]
print(json.dumps([model.name, model.labels, heavy, answers, model.logits(sys.argv[3:]).tolist()]))
"""


@pytest.fixture
def only(monkeypatch):
    """A function of packages: as if of all that engines need just these were installed."""

    def installed(*packages):
        monkeypatch.setattr(engines, "find_spec", lambda package: package if package in packages else None)

    return installed


def nearness(artefact, engine):
    """How far two answers to a text may be apart.

    OpenVINO adds in an order that depends on the shape of a batch; in the last digit, but that may turn an integer.
    """
    return artefact.written.tolerance if engine == "openvino" else 1e-5


@pytest.mark.parametrize("engine", [*GRAPHS, "auto"])
def test_a_fresh_process_answers_without_torch_as_torch_does(artefact, engine):
    command = [sys.executable, "-c", SCRIPT, artefact.folder, engine, *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, labels, heavy, answers, logits = json.loads(done.stdout)
    assert (name == engine or (engine == "auto" and name in GRAPHS)) and labels == ["bad", "good", "so-so"]
    assert len(heavy) == 0, "modules of torch and transformers, and what only scoring needs"
    with_torch = engines.load(artefact.folder, engine="torch", threads=1)
    assert with_torch.name == "torch" and with_torch.labels == ("bad", "good", "so-so")
    assert np.abs(with_torch.logits(TEXTS) - logits).max() < artefact.written.tolerance
    assert [one["label"] for one in with_torch(TEXTS)] == [one["label"] for one in answers]


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_an_answer_depends_on_no_batch_mate(artefact, engine):
    model, near = engines.load(artefact.folder, engine=engine, threads=1), nearness(artefact, engine)
    alone = np.concatenate([model.logits([text]) for text in TEXTS])
    assert np.abs(model.logits(TEXTS) - alone).max() < near
    pairs = list(reversed(TEXTS))
    alone = np.concatenate([model.logits([a], [b]) for a, b in zip(TEXTS, pairs, strict=True)])
    assert np.abs(model.logits(TEXTS, pairs) - alone).max() < near


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_many_threads_share_a_predictor(artefact, engine):
    model = engines.load(artefact.folder, engine=engine, threads=1)
    asked = [
        [" ".join(["best", "of", f"w{i}"] * n) for n in (1 + i, 9, 2)] for i in range(8)
    ]  # uneven: some are packed
    alone = [model.logits(texts) for texts in asked]
    together = Barrier(8)

    def ask(i):
        together.wait()
        return [model.logits(asked[i], batch_size=1 + turn % 3) for turn in range(6)]

    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(alone, pool.map(ask, range(8)), strict=True):
            assert all(np.abs(one - expected).max() < nearness(artefact, engine) for one in found)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_odd_texts_are_answered(artefact, engine, caplog):
    model = engines.load(artefact.folder, engine=engine, threads=1)
    exact, over = " ".join(["w3"] * (LONGEST - 2)), " ".join(["w3"] * (LONGEST - 1))
    lengths = [len(one.ids) for one in model.read(["", "w1", exact, over], None)]
    assert lengths == [2, 3, LONGEST, LONGEST]
    with caplog.at_level(logging.WARNING):
        found = model.logits(["", "w1", exact])
    assert np.isfinite(found).all() and found.shape == (3, 3) and not caplog.records
    for _ in range(2):
        assert np.abs(model.logits([over]) - found[2]).max() < nearness(artefact, engine), "cut to its first words"
    assert [one.getMessage() for one in caplog.records] == [
        f"1 of the first 4 texts are longer than {LONGEST} tokens and are truncated; later ones are not counted"
    ]
    assert model.logits([]).shape == (0, 3)


def test_a_folder_without_a_graph_runs_on_torch(artefact, save, tmp_path):
    folder = save(artefact.model, tmp_path / "plain")
    assert engines.load(folder).name == "torch"
    for engine in GRAPHS:
        with pytest.raises(FileNotFoundError, match=r'carries no graph \(model.onnx\); load it with engine="torch"'):
            engines.load(folder, engine=engine)


@pytest.mark.parametrize(
    ("engine", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("torch", "compress")]
)
def test_what_is_missing_is_named(artefact, only, engine, extra):
    only(*({*GRAPHS, "torch", "transformers"} - {engine}))
    with pytest.raises(
        ImportError, match=rf'engine \'{engine}\' is not installed; type: pip install "gossamer\[{extra}\]"'
    ):
        engines.load(artefact.folder, engine=engine)


@pytest.mark.parametrize("engine", GRAPHS)
def test_versions_that_cannot_be_trusted_are_refused(artefact, engine, monkeypatch):
    oldest, package = environment.OLDEST[engine], pytest.importorskip(engine)
    for before in {"onnxruntime": ("1.23.2", "1.9.0"), "openvino": ("2026.2.1-21919-ede", "2025.4.0")}[engine]:
        monkeypatch.setattr(package, "__version__", before)
        with pytest.raises(ImportError, match=rf"^{engine} {before} is too old: .* \"{engine}>={oldest}\"$"):
            engines.load(artefact.folder, engine=engine)
    for enough in (oldest, f"{oldest}.0-1-abc", "9999.0", "2026.10.0", "unknown", "custom_main_1.2"):
        environment.recent(engine, enough)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras[engine] == [f"{engine}>={oldest}"]


def test_auto_takes_what_is_there(artefact, only):
    for engine in GRAPHS:
        only(engine, "torch", "transformers")
        assert engines.load(artefact.folder).name == engine
    only("torch", "transformers")
    assert engines.load(artefact.folder).name == "torch"
    only("torch")
    with pytest.raises(ImportError, match=r"no engine is installed, .*gossamer\[onnxruntime\]"):
        engines.load(artefact.folder)


def test_wrong_arguments_are_said(artefact, tmp_path):
    with pytest.raises(ValueError, match="unknown engine 'tvm', expected one of: auto, openvino, onnxruntime, torch"):
        engines.load(artefact.folder, engine="tvm")
    with pytest.raises(ValueError, match="unknown precision 'fp8', expected one of: saved, bf16"):
        engines.load(artefact.folder, engine="torch", precision="fp8")
    with pytest.raises(ValueError, match="onnxruntime has no precision 'bf16', expected one of: saved"):
        engines.load(artefact.folder, engine="onnxruntime", precision="bf16")
    with pytest.raises(ValueError, match="threads is 0, expected 1 or more"):
        engines.load(artefact.folder, threads=0)
    for wrong in ("2", 1.5):
        with pytest.raises(ValueError, match=f"threads is {wrong!r}, expected 1 or more .*; type threads=2"):
            engines.load(artefact.folder, threads=wrong)
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'; expected one that gossamer compress wrote"):
        engines.load("nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no model \(no config.json\)"):
        engines.load(tmp_path)


@pytest.fixture
def copy(artefact, tmp_path):
    return Path(shutil.copytree(artefact.folder, tmp_path / "copy"))


@pytest.mark.parametrize("engine", ["auto", *engines.ENGINES])
def test_a_damaged_artefact_is_said(copy, engine):
    seal(copy)
    engines.load(copy, engine=engine)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-9] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: .*; copy the artefact again from its source"):
        engines.load(copy, engine=engine)


def test_a_name_that_is_not_utf_8_is_no_damage(tmp_path):
    with pytest.raises(
        ValueError, match=r"the folder's name b'.*/n\\xe4me' is not UTF-8, which engines cannot open; re"
    ):
        engines.load(Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe4me")))


@pytest.mark.parametrize("engine", GRAPHS)
def test_a_damaged_graph_is_said(copy, engine):
    (copy / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=rf'(?s){engine} .* cannot run .*model.onnx .*load it with engine="torch"'):
        engines.load(copy, engine)
    with pytest.raises(ValueError, match=r'(?s)cannot run .*model.onnx .*load it with engine="torch"'):
        engines.load(copy)


@pytest.mark.parametrize("engine", GRAPHS)
def test_bytes_are_added_exactly_without_vnni(artefact, engine, monkeypatch):
    monkeypatch.setattr(environment, "hardware", lambda: {"instructions": ["avx2"]})
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    assert environment.saturates()
    expected = engines.load(artefact.folder, "torch", 1).logits(TEXTS)
    apart = np.abs(engines.load(artefact.folder, engine, 1).logits(TEXTS) - expected)
    if engine == "openvino":  # floats on a processor with AVX-512 add in another order: an integer or two turn
        assert np.sqrt(np.mean(np.square(apart))) < artefact.written.tolerance  # which is a root mean square
    assert apart.max() < artefact.written.tolerance * (1.5 if engine == "openvino" else 1)
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    assert not environment.saturates()


def test_quick_kernels_run_where_products_fit_sixteen_bits(artefact, tmp_path, save, tokenizer, monkeypatch):
    import tiny
    import torch

    from gossamer.engines import export, onnxruntime
    from gossamer.forms import Rounded, attach, settle

    monkeypatch.setattr(environment, "hardware", lambda: {"instructions": ["avx2"]})
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    model = tiny.build("bert", "classes")
    for module in [m for m in model.modules() if type(m) is torch.nn.Linear]:
        attach(module, Rounded(8, paired=True))
    settle(model)
    folder = save(model, tmp_path / "paired")
    written = export.write(model, tokenizer, folder)
    apart = np.abs(engines.load(folder, "onnxruntime", 1).logits(TEXTS) - engines.load(folder, "torch").logits(TEXTS))
    assert apart.max() < 1.5 * written.tolerance
    with pytest.raises(ValueError, match=r"cannot run .*none\.onnx"):
        onnxruntime.session(folder / "none.onnx")
    for name in ("model.onnx", "packed.onnx"):
        others, ours = (onnxruntime.session(place / name, 1) for place in (artefact.folder, folder))
        assert others.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"
        with pytest.raises(RuntimeError):
            ours.get_session_options().get_session_config_entry("session.x64quantprecision")


def test_the_torch_engine_leaves_the_number_of_threads(artefact):
    import torch

    before = torch.get_num_threads()
    model = engines.load(artefact.folder, engine="torch", threads=before + 1)
    model.logits(TEXTS)
    assert torch.get_num_threads() == before
    assert model.model is not None and not model.model.training


def test_torch_fuses_attention_where_the_family_can(artefact, save, tmp_path):
    import tiny

    def attention(model, name):
        folder = save(model, tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))  # as somebody wished
        return engines.load(folder, "torch", 1).model.config._attn_implementation

    assert attention(artefact.model, "fused") == "sdpa"
    assert attention(tiny.build("deberta-v2", "classes"), "its own") == "eager"


def test_torch_halves_what_it_multiplies_and_answers_in_float32(artefact, save, tmp_path, monkeypatch):
    import tiny
    import torch

    from gossamer.engines import torch as engine

    folder = save(tiny.build("bert", "classes"), tmp_path / "plain")
    expected = engines.load(folder, "torch", 1).logits(TEXTS)
    monkeypatch.setattr(engine, "halves", lambda: True)
    model = engines.load(folder, "torch", 1, precision="bf16")
    found = model.logits(TEXTS)
    assert found.dtype == np.float32 and 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    kinds = {type(m).__name__: m.weight.dtype for m in model.model.modules() if hasattr(m, "weight")}
    assert kinds == {"Embedding": torch.float32, "LayerNorm": torch.float32, "Linear": torch.bfloat16}
    whole = engines.load(artefact.folder, "torch", 1).logits(TEXTS)
    integers = engines.load(artefact.folder, "torch", 1, precision="bf16").logits(TEXTS)
    assert np.abs(integers - whole).max() < 0.1 * np.abs(whole).max(), "artefacts of integers, too"


def test_torch_says_which_precisions_it_lacks(artefact, monkeypatch):
    from gossamer.engines import torch as engine

    monkeypatch.setattr(engine, "halves", lambda: False)
    with pytest.raises(
        ValueError,
        match=r"no bfloat16 instructions \(avx512_bf16, .*\), so that bf16 would only be slower; type precis",
    ):
        engines.load(artefact.folder, "torch", precision="bf16")
    with pytest.raises(ValueError, match="unknown precision 'int8', expected one of: saved, bf16"):
        engines.load(artefact.folder, "torch", precision="int8")
    with pytest.raises(ValueError, match="onnxruntime has no precision 'bf16', expected one of: saved"):
        engines.load(artefact.folder, "onnxruntime", precision="bf16")


def test_what_only_torch_does_is_not_asked_of_others_in_vain(artefact):
    for engine in ("auto", "onnxruntime"):
        for more in ({"compiled": True}, {"device": "cuda"}):
            with pytest.raises(ValueError, match=f"compiled and device are for torch, found engine '{engine}'; type"):
                engines.load(artefact.folder, engine, **more)
    with pytest.raises(ValueError, match="precision 'bf16' is asked of an engine; type engine="):
        engines.load(artefact.folder, precision="bf16")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_said(artefact, device):
    with pytest.raises(
        ValueError, match=rf"torch .* cannot use device '{device}' \(.+\); type device=\"cpu\", or inst"
    ):
        engines.load(artefact.folder, "torch", device=device)


@pytest.mark.parametrize(("wide", "inside"), [(32, True), (33, False)])
def test_torch_has_the_quicker_products_where_models_are_wide(save, tmp_path, monkeypatch, wide, inside):
    import tiny

    from gossamer import kernels
    from gossamer.runtime import attention

    monkeypatch.setattr(kernels, "WIDE", wide)
    monkeypatch.setattr(kernels, "_better", lambda: True)
    monkeypatch.setattr("gossamer.engines.torch.MANY", 8)
    model, seen = engines.load(save(tiny.build("bert", "classes"), tmp_path / "one"), "torch", 1), []
    model.model.register_forward_hook(lambda *_: seen.append(not attention.fused))
    model(["w1", "w2 w3"])
    model(["w1"])
    assert seen == [inside, False] and attention.fused, "a text alone is too little"


def test_torch_compiles_once_for_all_shapes(save, rounded, tmp_path, monkeypatch):
    import tiny
    import torch
    from torch._dynamo.utils import counters

    asked, whole = [], torch.nn.Module.compile

    def traced(self, **options):  # the same without the C++ compiler, which takes a minute
        asked.append(options)
        whole(self, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    counters.clear()
    folder = save(rounded(tiny.build("bert", "classes", num_hidden_layers=1)), tmp_path / "one")
    model = engines.load(folder, "torch", 1, compiled=True)
    expected = engines.load(folder, "torch", 1).logits(TEXTS)
    for size in (2, 3, 4):
        assert np.abs(model.logits(TEXTS, batch_size=size) - expected).max() < 1e-5
    assert asked == [{"dynamic": True}] and not counters["graph_break"]
    made = counters["stats"]["unique_graphs"]
    assert 1 <= made <= 2, "for batches, and perhaps for one text alone"
    model.logits(["the best of w1 w2"] * 5)
    assert counters["stats"]["unique_graphs"] == made


def test_what_cannot_be_compiled_is_said(save, tokenizer, tmp_path, monkeypatch):
    import tiny
    import torch

    from gossamer.runtime.walks import TokenThreshold, install

    model = tiny.build("bert", "classes")
    install(model, "bert.encoder.layer", TokenThreshold(2), midpoint="attention")
    folder = save(model, tmp_path / "dropping")
    assert engines.load(folder, "torch").model.config._attn_implementation == "gossamer", "the walk listens to it"
    with pytest.raises(ValueError, match=r"depends on the text \(TokenThreshold\), which torch.compile cannot follow"):
        engines.load(folder, "torch", compiled=True)
    folder = save(tiny.build("t5", "seq2seq"), tmp_path / "written")
    with pytest.raises(ValueError, match="for seq2seq writes word by word, which is not compiled; type compiled=False"):
        engines.load(folder, "torch", compiled=True)

    def broken(*_):
        raise OSError("no C++ compiler")

    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: whole(self, backend=broken, **options))
    folder = save(tiny.build("bert", "classes"), tmp_path / "plain")
    with pytest.raises(
        ValueError, match=r"torch .* cannot compile this model \(.*no C\+\+ comp.*\); type compiled=False"
    ):
        engines.load(folder, "torch", 1, compiled=True).logits(["w1"])
