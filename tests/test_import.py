"""Importing gossamer changes nothing but that transformers will know its artefacts, whatever is imported first."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STATE = """
def state():
    import logging, random, signal, sys, threading, warnings, os, locale
    root = logging.getLogger()
    found = {
        "root": (root.level, [type(h).__name__ for h in root.handlers]), "disabled": logging.root.manager.disable,
        "ours": (logging.getLogger("gossamer").level, len(logging.getLogger("gossamer").handlers)),
        "warnings": [str(f) for f in warnings.filters], "show": warnings.showwarning.__module__,
        "excepthook": sys.excepthook is sys.__excepthook__, "thread": threading.excepthook.__name__,
        "random": hash(random.getstate()), "signals": [str(signal.getsignal(s)) for s in (2, 15)],
        "environ": sorted(os.environ.items()), "cwd": os.getcwd(), "path": list(sys.path),
        "threads": threading.active_count(),
        "recursion": sys.getrecursionlimit(), "trace": str(sys.gettrace()), "locale": locale.getlocale(),
        "displayhook": sys.displayhook is sys.__displayhook__, "path_hooks": len(sys.path_hooks),
    }
    if "numpy" in sys.modules:
        import numpy
        found["numpy"] = str(numpy.geterr()), numpy.random.get_state()[1].sum().item(), str(numpy.get_printoptions())
    if "torch" in sys.modules:
        import torch
        found["torch"] = [torch.get_num_threads(), torch.get_num_interop_threads(), str(torch.get_default_dtype()),
            torch.initial_seed(), hash(tuple(torch.get_rng_state().tolist())), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            str(torch.get_default_device()),
            torch.is_anomaly_enabled(), torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled(),
            len(torch.nn.modules.module._global_forward_hooks), len(torch.nn.modules.module._global_forward_pre_hooks),
            len(torch.nn.modules.module._global_backward_hooks),
            len(torch.nn.modules.module._global_parameter_registration_hooks)]
    if "transformers" in sys.modules:
        import transformers
        found["transformers"] = [transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()]
    return found
"""


def alone(code: str, *args: str) -> Any:
    """What a fresh Python prints, as JSON, on its last line."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", STATE + code, *args], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_alone_is_light_and_changes_nothing() -> None:
    found = alone("""
import json, sys
before, modules, finders = state(), set(sys.modules), list(sys.meta_path)
import gossamer
fresh = sorted({m.partition(".")[0] for m in set(sys.modules) - modules} - set(sys.stdlib_module_names))
after = state()
print(json.dumps({
    "changed": [k for k in before if before[k] != after[k]], "fresh": fresh,
    "finders": [type(f).__name__ for f in sys.meta_path if f not in finders],
    "dir": all(name in dir(gossamer) for name in ("compress", "load", "measure", "parse", "__version__")),
}))
""")
    assert found == {"changed": [], "fresh": ["gossamer"], "finders": ["_AtTransformers"], "dir": True}


def test_all_that_training_imports_changes_nothing() -> None:
    """With third parties there first, so that their own doings do not count."""
    found = alone("""
import json, sys
import torch, transformers, transformers.trainer, numpy, accelerate, typer, rich.style
import transformers.models.auto.modeling_auto
torch.manual_seed(3)
before, finders = state(), list(sys.meta_path)
import gossamer
gossamer.compress, gossamer.Job, gossamer.CoFi, gossamer.load, gossamer.measure, gossamer.save
import gossamer.pipeline, gossamer.train, gossamer.cli, gossamer.runtime.revive
after = state()
print(json.dumps({"changed": {k: (before[k], after[k]) for k in before if before[k] != after[k] and k != "ours"},
    "finders": len(sys.meta_path) - len(finders)}, default=str))
""")
    assert found == {"changed": {}, "finders": 0}


FIRST = {
    "gossamer": "import gossamer, transformers",
    "transformers": "import transformers\nimport gossamer",
    "the Auto classes": "from transformers import AutoModelForSequenceClassification, AutoConfig\nimport gossamer",
    "artefact": "import gossamer.artefact\nimport transformers",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gossamer import artefact
    from tests import small

    job = small.after(small.job(tmp_path_factory.mktemp("job")), "Int8")
    return artefact.save(job.model, tmp_path_factory.mktemp("artefact") / "a", probe=small.batch(), verify=False)


@pytest.mark.parametrize("order", FIRST)
def test_artefacts_are_known_whatever_comes_first(order: str, folder: Path) -> None:
    found = alone(
        f"""
import json, sys, warnings
warnings.simplefilter("error", ImportWarning)
{FIRST[order]}
from transformers import AutoModelForSequenceClassification, AutoConfig
from safetensors.torch import load_file
probe = load_file(sys.argv[1] + "/probe.safetensors")
expected = probe.pop("logits")
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
print(json.dumps({{
    "config": type(AutoConfig.from_pretrained(sys.argv[1])).__module__, "class": type(model).__name__,
    "difference": float((model(**probe).logits - expected).abs().max()),
    "finders": [type(f).__name__ for f in sys.meta_path if "Transformers" in type(f).__name__],
}}))
""",
        str(folder),
    )
    assert found.pop("difference") <= 1e-6
    assert found == {"config": "gossamer.runtime.revive", "class": "BertForSequenceClassification", "finders": []}


def test_without_transformers_it_is_still_there() -> None:
    found = alone("""
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
import gossamer, gossamer.data, gossamer.recipe, gossamer.engines
try:
    gossamer.compress
except ImportError as error:
    said = error.name
print(json.dumps([gossamer.__version__, said, gossamer.load.__name__]))
""")
    assert found[0] and found[1].partition(".")[0] in ("torch", "transformers") and found[2] == "load"


def test_a_name_that_is_not_there() -> None:
    import gossamer

    with pytest.raises(AttributeError, match="module 'gossamer' has no attribute 'Quantise'"):
        gossamer.Quantise  # noqa: B018
    assert isinstance(gossamer.compress, Callable) and gossamer.CoFi(0.5).sparsity == 0.5
