import json
import os
from pathlib import Path

import pytest

from gossamer.engines import part
from gossamer.engines.part import Part, Passing, origin, outlet

ROWS = [(f"text {i}", None if i % 2 else "pair") for i in range(10)]
OF = {"artefact": "a1", "engine": "fast", "echo": False}


class Died(BaseException):
    """What a process that is killed would feel."""


def fill(place: Path, rows, die_after=None, of=OF, torn="", **how):
    """Answer rows two at a time; returns those that were answered in this run."""
    part = Part(place, **how)
    answered = []
    with part.opened(of):
        rest = list(part.rest(iter(rows)))
        for i in range(0, len(rest), 2):
            if die_after is not None and part.rows >= die_after:
                part._stream.write(torn.encode())
                part._stream.flush()
                raise Died
            window = rest[i : i + 2]
            part.write("".join(f"{text} é\n" for text, _ in window), window)
            answered += window
    return answered


def died(place: Path, rows=ROWS, after=4, **how):
    with pytest.raises(Died):
        fill(place, rows, die_after=after, **how)


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path):
    out = tmp_path / "out"
    part = Part(out)
    with part.opened(OF):
        part.write("one\n", ROWS[:1])
        assert names(tmp_path) == ["out.part", "out.part.json"] and (tmp_path / "out.part").read_text() == "one\n"
        assert json.loads((tmp_path / "out.part.json").read_text())["rows"] == 1
    assert names(tmp_path) == ["out"] and out.read_text() == "one\n"


@pytest.mark.parametrize("torn", ["", "half of a line", "text 4 é\ntext"])
def test_what_is_resumed_ends_as_if_never_interrupted(tmp_path, torn):
    fill(tmp_path / "whole", ROWS)
    died(tmp_path / "out", after=4, torn=torn)
    died(tmp_path / "out", after=8, resume=True, torn=torn)
    assert fill(tmp_path / "out", ROWS, resume=True) == ROWS[8:], "none is answered twice"
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert names(tmp_path) == ["out", "whole"]


def test_resume_begins_where_there_is_nothing(tmp_path):
    assert fill(tmp_path / "out", ROWS, resume=True) == ROWS


def test_one_that_died_at_the_very_end_has_nothing_left_to_answer(tmp_path):
    part = Part(tmp_path / "out")
    with pytest.raises(Died), part.opened(OF):
        part.write("all\n", ROWS)
        raise Died
    assert fill(tmp_path / "out", ROWS, resume=True) == [] and (tmp_path / "out").read_text() == "all\n"


def test_nothing_is_overwritten_unasked(tmp_path):
    out = tmp_path / "out"
    died(out)
    with pytest.raises(
        ValueError, match=r"out.part holds 4 answers .* --resume to continue it, or --force to start an"
    ):
        Part(out)
    assert fill(out, ROWS, force=True) == ROWS
    with pytest.raises(ValueError, match="exists; choose another name, or add --force to replace it"):
        Part(out, resume=True)
    died(out, force=True)
    assert out.exists(), "the old one stays until the new one is whole"
    assert fill(out, ROWS, force=True, resume=True) == ROWS[4:], "resume goes first: the same command, and --resume"
    with pytest.raises(ValueError, match="is a folder, expected the name of a file"):
        Part(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder '.*none' to write out into; make it first"):
        Part(tmp_path / "none" / "out")


def test_a_file_that_appears_meanwhile_stays(tmp_path):
    part = Part(tmp_path / "out")
    with pytest.raises(ValueError, match="exists; choose another name"), part.opened(OF):
        part.write("ours\n", ROWS)
        (tmp_path / "out").write_text("theirs")
    assert (tmp_path / "out").read_text() == "theirs" and (tmp_path / "out.part").read_text() == "ours\n"
    assert fill(tmp_path / "out", ROWS, resume=True, force=True) == []


def test_one_that_comes_late_does_not_begin(tmp_path):
    late = Part(tmp_path / "out")
    fill(tmp_path / "out", ROWS)
    with pytest.raises(ValueError, match="exists; choose another name"), late.opened(OF):
        raise AssertionError("nothing is computed")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("other", [{"artefact": "b2"}, {"engine": "slow"}, {"echo": True}])
def test_answers_of_another_run_are_not_continued(tmp_path, other):
    died(tmp_path / "out")
    (key, now), was = *other.items(), OF[next(iter(other))]
    with pytest.raises(ValueError, match=rf"another run \({key} was {was}, now {now}\); type what was typed then, or"):
        fill(tmp_path / "out", ROWS, of=OF | other, resume=True)
    assert fill(tmp_path / "out", ROWS, resume=True) == ROWS[4:], "and nothing was touched"


@pytest.mark.parametrize("rows", [[("other", None), *ROWS[1:]], [*ROWS[:3], ("text 3", "")], ROWS[:3], []])
def test_another_input_is_not_continued(tmp_path, rows):
    died(tmp_path / "out")
    with pytest.raises(ValueError, match=r"out.part holds answers to 4 other texts than this input begins with; give"):
        fill(tmp_path / "out", rows, resume=True)
    assert fill(tmp_path / "out", [*ROWS, ("more", None)], resume=True) == [*ROWS[4:], ("more", None)], "it may grow"


@pytest.mark.parametrize("damage", ["absent", "torn", "strange", "longer"])
def test_a_part_without_its_note_is_not_continued(tmp_path, damage):
    died(tmp_path / "out")
    memo = tmp_path / "out.part.json"
    if damage == "absent":
        memo.unlink()
    elif damage == "longer":
        os.truncate(tmp_path / "out.part", 3)
    else:
        memo.write_text({"torn": memo.read_text()[:-20], "strange": "[]"}[damage])
    with pytest.raises(ValueError, match=r"its note out.part.json is missing or does not fit; type --force without"):
        Part(tmp_path / "out", resume=True)
    with pytest.raises(ValueError, match="add --resume to continue it, or --force"):
        Part(tmp_path / "out")
    assert fill(tmp_path / "out", ROWS, force=True) == ROWS


def test_two_processes_do_not_write_one_part(tmp_path):
    pytest.importorskip("fcntl")
    died(tmp_path / "out")
    first, second = Part(tmp_path / "out", resume=True), Part(tmp_path / "out", resume=True)
    with first.opened(OF):
        told = pytest.raises(
            ValueError, match=r"another process writes .*out.part; wait for its end, or choose another"
        )
        with told, second.opened(OF):
            pass
    assert (tmp_path / "out").exists()


def finish(part, rows=ROWS):
    with part.opened(OF):
        rest = list(part.rest(iter(rows)))
        part.write("".join(f"{text} é\n" for text, _ in rest), rest)


SINCE = r"another process has written .*out.part since this one began; type the same command again"


@pytest.mark.parametrize("locked", ["before", "after"])
def test_what_another_process_ends_meanwhile_is_left_alone(tmp_path, monkeypatch, locked):
    fill(tmp_path / "whole", ROWS)
    died(tmp_path / "out")
    late, other = (Part(tmp_path / "out", resume=True, force=True) for _ in range(2))
    if locked == "before":
        finish(other)
    else:  # it ends when the file is open already, which by then has another name

        def alone(file):
            monkeypatch.undo()
            stream = file.open("r+b")
            finish(other)
            return stream

        monkeypatch.setattr(part, "_alone", alone)
    with pytest.raises(ValueError, match=SINCE):
        finish(late)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert names(tmp_path) == ["out", "whole"]


@pytest.mark.parametrize("how", [{"resume": True}, {}, {"force": True}])
def test_what_another_process_adds_meanwhile_is_left_alone(tmp_path, how):
    out = tmp_path / "out"
    if how:
        died(out)
    late = Part(out, **how)
    died(out, after=8, resume=True)
    with pytest.raises(ValueError, match=SINCE):
        finish(late)
    assert fill(out, ROWS, resume=True) == ROWS[8:]


def test_a_file_that_has_become_shorter_is_not_filled_up(tmp_path):
    died(tmp_path / "out")
    late = Part(tmp_path / "out", resume=True)
    os.truncate(tmp_path / "out.part", 3)
    with pytest.raises(ValueError, match=SINCE):
        finish(late)
    assert (tmp_path / "out.part").read_bytes() == b"tex"


@pytest.mark.parametrize("how", [{"resume": True}, {}, {"force": True}])
@pytest.mark.parametrize("noted", [True, False])
def test_one_that_died_before_its_first_answers_has_nothing_to_lose(tmp_path, how, noted):
    (tmp_path / "out.part").touch()
    if noted:
        (tmp_path / "out.part.json").write_text(json.dumps({"of": {"a": 1}, "rows": 0, "bytes": 0, "read": "x"}))
    assert fill(tmp_path / "out", ROWS, **how) == ROWS


def test_one_that_dies_while_it_starts_anew_can_be_continued(tmp_path, monkeypatch):
    died(tmp_path / "out")

    class Torn:
        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            if name == "truncate":
                raise Died
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

    alone = part._alone
    monkeypatch.setattr(part, "_alone", lambda file: Torn(alone(file)))
    monkeypatch.setattr(Part, "_left", lambda self, error: None)  # a killed process tidies nothing up
    with pytest.raises(Died):
        finish(Part(tmp_path / "out", force=True))
    monkeypatch.undo()
    assert fill(tmp_path / "out", ROWS, resume=True) == ROWS


def test_what_is_left_is_told(tmp_path, caplog):
    with pytest.raises(OSError, match="full"), Part(tmp_path / "out").opened(OF):
        raise OSError("disk full")
    assert names(tmp_path) == [] and not caplog.text, "nothing was answered, nothing is left"
    died(tmp_path / "out")
    assert "out.part keeps 4 answers; the same command with --resume continues" in caplog.text
    caplog.clear()
    told = pytest.raises(KeyboardInterrupt, match=r"^the same command with --resume continues$")
    with told, Part(tmp_path / "out", resume=True).opened(OF):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.part", "out.part.json"] and not caplog.text


def test_a_device_passes_answers_on(tmp_path, capsys):
    out = outlet("-")
    with out.opened(OF):
        assert list(out.rest(ROWS)) == ROWS
        out.write("é\n", ROWS[:2])
        assert capsys.readouterr().out == "é\n" and out.rows == 2
    assert isinstance(outlet(os.devnull), Passing) and isinstance(outlet(str(tmp_path / "out")), Part)
    with pytest.raises(ValueError, match="--resume needs --output FILE: what went to a stream cannot be continued"):
        outlet("-", resume=True)


def test_an_artefact_is_known_again_by_its_manifest(tmp_path):
    assert origin(tmp_path) == ""
    (tmp_path / "config.json").write_text("{}")
    plain = origin(tmp_path)
    (tmp_path / "manifest.json").write_text("{}\n")
    assert len(plain) == 16 and origin(tmp_path) not in ("", plain)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "packed.onnx", "config.json", "tokenizer.json", "vocab.txt"]
)
def test_a_folder_without_manifest_is_known_again_by_what_is_read_of_it(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"the old")
    known = origin(tmp_path)
    (tmp_path / "out.jsonl.part").touch()
    (tmp_path / "out.jsonl.part.json").write_text("{}")
    assert origin(tmp_path) == known, "answers are not of the model"
    (tmp_path / name).write_bytes(b"the new")
    assert origin(tmp_path) != known and len(known) == 16
