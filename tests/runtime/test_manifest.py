"""Artefacts are compared with their manifest: all before they are read, but weights, which take long, meanwhile."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from gossamer.runtime import manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"numbers")
    manifest.seal(tmp_path)
    return tmp_path


@pytest.mark.parametrize("size", [0, 1, 100, 201])
def test_the_digest_is_that_of_the_whole_file(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "AT_ONCE", 100)
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert manifest.digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_weights_are_compared_while_the_artefact_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, inside, seen, digest = Event(), Event(), [], manifest.digest

    def waiting(file: Path) -> str:
        if file.suffix == manifest.NUMBERS:
            begun.set()
            assert inside.wait(10), "it was opened only afterwards"
        seen.append(file.name)
        return digest(file)

    monkeypatch.setattr(manifest, "digest", waiting)
    with manifest.checked(folder):
        assert begun.wait(10), "nobody compares meanwhile"
        assert seen == ["config.json"]
        inside.set()
    assert seen == ["config.json", "model.safetensors"]


def _well() -> None:
    pass


def _badly() -> None:
    raise RuntimeError("cannot be read")


@pytest.mark.parametrize("opening", [_well, _badly])
def test_damaged_weights_say_so_whatever_came_of_them(opening: Callable[[], None], folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"number5")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"), manifest.checked(folder):
        opening()


def test_whole_weights_leave_the_trouble_to_others(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be read"), manifest.checked(folder):
        _badly()


def test_an_interruption_waits_for_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going, done, digest = Event(), Event(), manifest.digest

    def slow(file: Path) -> str:
        if file.suffix == manifest.NUMBERS:
            going.wait(10)
            done.set()
        return digest(file)

    monkeypatch.setattr(manifest, "digest", slow)
    with pytest.raises(KeyboardInterrupt), manifest.checked(folder):
        raise KeyboardInterrupt
    assert not done.is_set()
    going.set()


def test_nothing_is_opened_where_all_else_is_damaged(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json is damaged"), manifest.checked(folder):
        raise AssertionError("it was opened")


def test_a_folder_without_a_manifest_is_not_ours_to_judge(tmp_path: Path) -> None:
    with manifest.checked(tmp_path):
        manifest.check(tmp_path)
