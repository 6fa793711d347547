"""The teacher's answers: written down once they are what the teacher says, and they are used again."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer import teacher as module
from gossamer.loss import ALL, Attention, Hidden, Logits, Reads, Task
from gossamer.runtime.walks import in_full
from gossamer.teacher import Teacher
from gossamer.train import Train, train
from tests import small

READS = Reads(logits=True, hidden=ALL, scores=ALL)


def told(done: int, all_: int) -> None:
    assert 0 < done <= all_


@pytest.mark.parametrize("name", ["", "LTP", "PABEE", "Share"])
def test_what_was_written_down_is_what_the_teacher_says(name: str, tmp_path: Path) -> None:
    """Also a teacher that lets tokens or rows go when it answers by itself: here it shows everything."""
    job = small.job(tmp_path / "job")
    model = small.after(job, name).model if name else job.teacher
    kept, asked = Teacher(model, READS), Teacher(model, READS)
    assert kept.prepare(job.train, job.collate, tmp_path / "kept", told)
    for at in (0, 20, 41):
        batch = job.collate(job.train[at : at + 7])
        one, two = kept(batch), asked(batch)
        assert torch.allclose(one.out.logits, two.out.logits, atol=1e-5)
        assert torch.equal(one.mask, two.mask) and len(one.hidden) == len(two.hidden) == 5 and len(one.scores) == 4
        for a, b in zip(one.hidden, two.hidden, strict=True):
            seen = batch["attention_mask"].bool()
            assert a.shape == b.shape and torch.allclose(a[seen], b[seen], atol=5e-3, rtol=1e-3)
        for a, b in zip(one.scores, two.scores, strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, atol=1e-2, rtol=1e-3)


def test_some_layers_only(tmp_path: Path) -> None:
    job = small.job(tmp_path / "job")
    kept, whole = Teacher(job.teacher, Reads(hidden=2)), Teacher(job.teacher, Reads(hidden=ALL))
    kept.prepare(job.train, job.collate, tmp_path / "kept", told)
    batch = job.collate(job.train[:5])
    some, all_ = kept(batch), whole(batch)
    assert len(some.hidden) == 3 and some.scores == []
    for a, b in zip(some.every(2), all_.every(2), strict=True):
        assert torch.allclose(a * batch["attention_mask"][..., None], b * batch["attention_mask"][..., None], atol=5e-3)


def test_the_files_are_used_again_and_half_of_them_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, calls = small.job(tmp_path / "job"), list[int]()
    think = Teacher.think

    def count(self: Teacher, batch: Any) -> Any:
        calls.append(len(batch["input_ids"]))
        return think(self, batch)

    monkeypatch.setattr(Teacher, "think", count)

    def prepared() -> int:
        calls.clear()
        Teacher(job.teacher, READS).prepare(job.train, job.collate, tmp_path / "kept", told)
        return sum(calls)

    assert prepared() >= 48 and prepared() <= 1
    done = [p for p in (tmp_path / "kept").iterdir() if p.suffix == ".json"]
    assert len(done) == 1
    done[0].unlink()  # as if it had been killed before the end
    assert prepared() >= 48


def test_too_much_to_keep_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    job = small.job(tmp_path / "job")
    teacher = Teacher(job.teacher, READS)
    assert not teacher.prepare(job.train, job.collate, tmp_path / "kept", told) and not teacher.kept
    assert not list((tmp_path / "kept").glob("*.npy")) and teacher(job.collate(job.train[:2])).hidden


def test_a_full_disk_is_an_error_before_it_is_a_crash(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        job = small.job(disk / "job")
        with pytest.raises(OSError, match=r"the disk is full: .* make room, or choose another folder"):
            train(job, Train(Hidden(32, 32) + Attention()))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_training_from_files_is_training_from_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path) -> Any:
        job = small.job(folder, steps=4)
        train(job, Train(Task() + Logits(2.0) + Hidden(32, 32) + Attention(), lr=1e-3))
        return job

    kept = run(tmp_path / "kept")
    assert list((tmp_path / "kept" / "teacher").rglob("*.npy"))
    monkeypatch.setattr(module, "LARGEST", 0)
    asked = run(tmp_path / "asked")
    assert not list((tmp_path / "asked" / "teacher").rglob("*.npy"))
    for a, b in zip(kept.model.parameters(), asked.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    assert kept.log[-1]["loss"] == pytest.approx(asked.log[-1]["loss"], rel=1e-3)


def test_the_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    before = job.fingerprint(job.teacher)
    assert before == job.fingerprint(small.model()) and len(before) == 12
    next(job.model.parameters()).data[0, 0] += 1e-6
    assert job.fingerprint(job.model) != before


def test_in_full_ends_with_its_block(tmp_path: Path) -> None:
    model = small.after(small.job(tmp_path), "LTP", "PABEE").model
    before = small.logits(model)
    with pytest.raises(KeyError), in_full(model):
        whole = small.logits(model)
        raise KeyError
    assert torch.equal(small.logits(model), before) and not torch.equal(whole, before)
