"""EfficientQA: every byte of a self-contained folder, and answers that match."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.benchmarks import efficientqa as qa
from gossamer.metrics.passages import normalize

GOLDS = {
    "where is it": ("Salzburg, Austria", "Austria"),
    "who": ("António Guterres",),
    "when": ("15\u00a0July\u00a02011",),
}


def jsonl(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def system(tmp_path):
    """A folder of 1,750 bytes in two files."""
    folder = tmp_path / "system"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 1000)
    (folder / "deep" / "deeper" / "index").write_bytes(b"y" * 750)
    return folder


def test_the_size_is_that_of_every_file(system):
    (system / ".hidden").write_bytes(b"z" * 5)
    (system / "empty").touch()
    assert qa.system_size(system) == 1755
    counted = subprocess.run(
        ["find", system, "-type", "f", "-printf", "%s\n"], capture_output=True, text=True, check=True
    )
    assert qa.system_size(system) == sum(map(int, counted.stdout.split()))


def test_two_names_of_one_file_count_once(system):
    os.link(system / "weights", system / "deep" / "again")
    assert qa.system_size(system) == 1750


def test_links_inside_add_nothing(system):
    (system / "by file").symlink_to("weights")
    (system / "by folder").symlink_to("deep", target_is_directory=True)
    (system / "deep" / "up").symlink_to("..", target_is_directory=True)
    assert qa.system_size(system) == 1750
    outer = system.parent / "name"
    outer.symlink_to(system, target_is_directory=True)
    assert qa.system_size(outer) == 1750


def test_links_out_or_to_nothing_are_refused(system):
    beside = system.parent / "system-blobs"  # its path begins as the folder's does
    beside.mkdir()
    (beside / "blob").write_bytes(b"b")
    for target in (beside / "blob", Path("..", "system-blobs", "blob"), beside):
        (system / "link").symlink_to(target)
        with pytest.raises(ValueError, match=r"link is a link to .*system-blobs.*not self-contained; put a copy there"):
            qa.system_size(system)
        (system / "link").unlink()
    (beside / "back").symlink_to(system / "weights")
    (system / "link").symlink_to(beside / "back")  # it ends inside, by way of the outside
    with pytest.raises(ValueError, match="not self-contained"):
        qa.system_size(system)
    (system / "link").unlink()
    (system / "link").symlink_to("gone")
    with pytest.raises(ValueError, match=r"link to nothing \(gone\); remove it"):
        qa.system_size(system)
    (system / "link").unlink()
    (system / "link").symlink_to("link")
    with pytest.raises(ValueError, match="link to nothing"):
        qa.system_size(system)


def test_a_folder_that_is_none_or_holds_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder; expected one that holds all that the system needs"):
        qa.system_size(tmp_path / "none")
    (tmp_path / "only" / "folders").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no file"):
        qa.system_size(tmp_path / "only")


def test_answers_match_up_to_spelling():
    assert qa.is_right("the Austria!", GOLDS["where is it"])
    assert qa.is_right("salzburg austria", GOLDS["where is it"])
    assert qa.is_right("Anto\u0301nio Guterres", GOLDS["who"])  # the accent apart
    assert qa.is_right("15 July 2011", GOLDS["when"])
    assert not qa.is_right("Antonio Guterres", GOLDS["who"])
    assert not qa.is_right("", GOLDS["who"])


@given(st.text(max_size=20), st.text(max_size=20))
def test_only_what_normalises_alike_is_right(said, gold):
    import unicodedata

    one, other = (normalize(unicodedata.normalize("NFD", text)) for text in (said, gold))
    assert qa.is_right(said, (gold,)) == (one == other)
    assert qa.is_right(gold, (said, gold))


def test_questions_without_a_prediction_are_wrong_and_others_are_left_aside():
    found = qa.score({"where is it": "Austria", "never asked": "x"}, GOLDS)
    assert (found.right, found.questions, found.missing, found.size) == (1, 3, 2, None)
    assert found.exact_match == pytest.approx(1 / 3)
    assert found.tracks == ("unrestricted",)  # whose size was not measured is in no other
    assert asdict(found)["missing"] == 2
    with pytest.raises(ValueError, match=r"none of the 3 questions has a prediction; .* such as 'where is it'"):
        qa.score({"Where is it?": "Austria"}, GOLDS)
    with pytest.raises(ValueError, match="no references"):
        qa.score({}, {})


@pytest.mark.parametrize(
    ("size", "right", "tracks"),
    [
        (500 * 2**20, 0.2499, ("unrestricted", "6 GiB", "500 MiB")),
        (500 * 2**20 + 1, 0.25, ("unrestricted", "6 GiB", "smallest with 25 %")),
        (6 * 2**30 + 1, 0.9, ("unrestricted", "smallest with 25 %")),
        (1, 0.25, ("unrestricted", "6 GiB", "500 MiB", "smallest with 25 %")),
    ],
)
def test_tracks_have_their_limits(size, right, tracks):
    assert tuple(track.name for track in qa.TRACKS if track.admits(right, size)) == tracks


def test_published_baselines_are_in_the_tracks_they_were_made_for():
    inside = {
        one.name: [t.name for t in qa.TRACKS[1:] if t.admits(one.exact_match, int(one.gigabytes * 1e9))]
        for one in qa.BASELINES
    }
    assert inside["T5-small-SSM"] == ["6 GiB", "500 MiB", "smallest with 25 %"]
    assert inside["DPR-subset"] == inside["T5-XL-SSM"] == inside["TFIDF-subset"] == ["6 GiB", "smallest with 25 %"]
    assert inside["DPR-full"] == inside["T5-XXL-SSM"] == ["smallest with 25 %"]
    assert all(winner.human > winner.automatic for winner in qa.WINNERS) and len(qa.WINNERS) == len(qa.TRACKS)


def test_a_track_ranks_by_accuracy_or_by_size():
    def result(exact_match, size):
        return qa.Result(exact_match, 0, 1, 0, size, ())

    found = {"big": result(0.5, 900), "small": result(0.3, 100), "as good": result(0.5, 800), "bad": result(0.1, 1)}
    assert qa.rank(qa.UNRESTRICTED, found) == ("as good", "big", "small", "bad")
    assert qa.rank(qa.SMALLEST, found) == ("small", "as good", "big")
    unknown = found | {"unknown": result(0.5, None)}
    assert qa.rank(qa.UNRESTRICTED, unknown) == ("as good", "big", "unknown", "small", "bad")
    assert "unknown" not in qa.rank(qa.SIX_GIB, unknown)


def test_files_go_in_and_out(tmp_path):
    asked = jsonl(tmp_path / "in.jsonl", *({"question": q, "answer": list(a)} for q, a in GOLDS.items()))
    assert qa.read_questions(asked) == tuple(GOLDS)
    assert qa.read_references(asked) == GOLDS
    assert qa.answer(lambda question: question.upper(), asked, tmp_path / "out.jsonl") == 3
    assert qa.read_predictions(tmp_path / "out.jsonl") == {q: q.upper() for q in GOLDS}
    twice = jsonl(tmp_path / "twice.jsonl", *({"question": "q", "answer": [a], "prediction": a} for a in "xy"))
    assert qa.read_references(twice) == {"q": ("y",)} and qa.read_predictions(twice) == {"q": "y"}


def test_lines_that_are_not_the_interface_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"line 1 has no 'prediction'"):
        qa.read_predictions(jsonl(tmp_path / "a", {"question": "q"}))
    with pytest.raises(ValueError, match="'prediction' is"):
        qa.read_predictions(jsonl(tmp_path / "b", {"question": "q", "prediction": None}))
    for wrong in ([], [1], ["a", None]):
        with pytest.raises(ValueError, match=r"line 1: 'answer' is .* expected a list of one string or more"):
            qa.read_references(jsonl(tmp_path / "c", {"question": "q", "answer": wrong}))
    with pytest.raises(ValueError, match="'answer' is"):
        qa.read_references(jsonl(tmp_path / "d", {"question": "q", "answer": "bare"}))


def script(folder, body):
    file = folder / "submission.sh"
    file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    file.chmod(0o755)
    return file.stat().st_size


def test_a_folder_is_run_and_sized(system, tmp_path):
    golds = jsonl(tmp_path / "nq.jsonl", *({"question": q, "answer": list(a)} for q, a in GOLDS.items()))
    size = script(system, 'grep -q answer "$1" && exit 3\nsed \'s/}$/, "prediction": "Austria"}/\' "$1" > "$2"')
    found = qa.evaluate(system, golds)
    assert (found.right, found.questions, found.size) == (1, 3, 1750 + size)
    assert found.tracks == ("unrestricted", "6 GiB", "500 MiB", "smallest with 25 %")


def test_a_folder_that_does_not_run_is_refused(system, tmp_path):
    golds = jsonl(tmp_path / "nq.jsonl", {"question": "q", "answer": ["a"]})
    with pytest.raises(FileNotFoundError, match=r"has no submission\.sh"):
        qa.evaluate(system, golds)
    script(system, "echo broken >&2; exit 4")
    with pytest.raises(ValueError, match="ended with 4; its last words: broken"):
        qa.evaluate(system, golds)
    script(system, "true")
    with pytest.raises(ValueError, match=r"wrote no predictions\.jsonl; its last words: none"):
        qa.evaluate(system, golds)
    (system / "submission.sh").chmod(0o644)
    with pytest.raises(ValueError, match=r"cannot be run .* chmod \+x"):
        qa.evaluate(system, golds)
