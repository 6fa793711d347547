"""Laws 4 and 5, where there is no gossamer: a plain load is right or raises; the artefact's own runtime is right."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.laws.test_pairs import allowed

PAIRS = [(name, "Int8") for name in small.NAMES if allowed(name, "Int8")]
NAMES = [*((name,) for name in small.NAMES), *PAIRS, ("CoFi", "PABEE"), ("Share", "LTP"), ("LTP", "PABEE")]


@pytest.fixture(scope="module")
def told(saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process without gossamer says of all the artefacts."""
    folders = [str(saved(*names)) for names in NAMES]
    home = tmp_path_factory.mktemp("stranger")
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environ |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("strangers.py")), *folders]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=home)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_law_5_the_artefact_carries_all_it_needs(names: tuple[str, ...], told: dict[str, Any]) -> None:
    found = told["-".join(names)]["trusting"]
    assert found.get("class") == "BertForSequenceClassification" and found["difference"] <= 1e-6, found


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_law_4_without_us_it_is_right_or_it_raises(
    names: tuple[str, ...], told: dict[str, Any], saved: Callable[..., Path]
) -> None:
    found, folder = told["-".join(names)]["plain"], saved(*names)
    native = json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    if native:
        assert found["difference"] <= 1e-6 and not list(folder.glob("*.py"))
    else:
        assert "trust_remote_code=True" in found["raised"]


def test_what_a_plain_architecture_can_hold_is_one(saved: Callable[..., Path]) -> None:
    types = {name: json.loads((saved(name) / "config.json").read_text())["model_type"] for name in small.NAMES}
    assert {name for name, kind in types.items() if kind == "bert"} == {"Theseus", "TinyBERT"}
