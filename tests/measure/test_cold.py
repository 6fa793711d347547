"""Cold starts: real processes, the right folder and engine, and words for those that fail."""

from pathlib import Path
from typing import Any

import pytest

from gossamer.measure import cold as module
from gossamer.measure.cold import Cold, cold, once


def test_sides_take_turns_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def fake(folder: Path, engine: str, text: str, pair: str | None, threads: int) -> tuple[float, int]:
        seen.append(folder.name)
        return (100.0, 1) if len(seen) <= 2 else (len(seen), 10 * len(seen))

    monkeypatch.setattr(module, "once", fake)
    found = cold({"a": (Path("one"), "eager"), "b": (Path("two"), "torch")}, "hello", runs=3)
    assert seen == ["one", "two"] * 4
    assert found == {"a": Cold(5.0, 50, 3), "b": Cold(6.0, 60, 3)}


def test_one_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(folder: Path, engine: str, text: str, pair: str | None, threads: int) -> tuple[float, int]:
        if folder.name == "broken":
            raise ValueError("no weights")
        return 1.0, 2

    monkeypatch.setattr(module, "once", fake)
    found: dict[str, Any] = cold({"bad": (Path("broken"), "torch"), "good": (Path("fine"), "torch")}, "x")
    assert found == {"bad": "no weights", "good": Cold(1.0, 2, 3)}


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(module, "LONGEST", 0.5)
    found = cold({"a": (tmp_path, "torch")}, "x")
    assert isinstance(found["a"], str) and "timed out after 0.5 seconds" in found["a"]


@pytest.mark.slow
def test_a_real_process_answers(plain_folder: Path) -> None:
    seconds, peak = once(plain_folder, "eager", "a b c")
    assert 0 < seconds < 120 and 50e6 < peak < 5e9


def test_its_last_words_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a fresh process could not answer: FileNotFoundError|could not answer: \w+"):
        once(tmp_path, "onnxruntime", "a")


def test_the_peak_is_the_process_s_own_and_not_its_parent_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    fat = bytearray(400 * 2**20)
    fat[:: 2**12] = b"x" * (len(fat) // 2**12)  # pages that are touched
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 400 * 2**10
    monkeypatch.setattr(module, "CHILD", "import json, time\nanswered = time.time()\n")
    _, peak = once(tmp_path, "none", "a")
    assert 10**6 < peak < 100 * 2**20
    del fat
