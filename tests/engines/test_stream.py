import gzip
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import islice
from queue import Queue

import pytest
from test_predictor import predictor

from gossamer.engines import stream
from gossamer.engines.stream import AHEAD, Rows, answers, windows

ROWS = [("a" * (i % 7), None if i % 5 else "b" * (i % 3)) for i in range(100)]


def expected(rows):
    return [predictor()([text], None if pair is None else [pair])[0] for text, pair in rows]


def reading():
    return [one for one in threading.enumerate() if one.name == "gossamer-reads"]


def gone():
    deadline = time.monotonic() + 20
    while reading() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not reading()


def test_answers_are_those_of_the_predictor_in_order():
    found = list(answers(iter(ROWS), predictor(), batch_size=4))
    assert found == expected(ROWS) and gone()
    assert list(answers(iter([]), predictor())) == []


def test_windows_are_full_however_slowly_a_file_is_read():
    def rows():
        for row in ROWS[:10]:
            time.sleep(stream.IDLE / 4)
            yield row

    assert [len(window) for window, _ in windows(rows(), predictor(), 2, size=4)] == [4, 4, 2]
    assert [len(window) for window, _ in windows(iter(ROWS), predictor(), 2)] == [64, 36]


def test_a_window_is_read_while_the_one_before_is_computed():
    model, read = predictor(), threading.Semaphore(0)
    whole, half = model.reads, model.answers

    def reads(*given):
        read.release()
        return whole(*given)

    def computed(*given):
        for _ in range(2):  # this window and the next
            assert read.acquire(timeout=20), "nobody reads while the engine computes"
        read.release()
        return half(*given)

    model.reads, model.answers = reads, computed
    rows = [(text, None) for text, _ in ROWS]
    for _, said in islice(windows(iter(rows), model, 2, size=4), 20):
        assert len(said) == 4


def test_only_a_few_windows_are_in_memory():
    read = answered = 0

    def rows():
        nonlocal read
        for i in range(1000):
            read = i + 1
            assert read - answered <= (AHEAD + 3) * 8
            yield "text", None

    for window, _ in windows(rows(), predictor(), 4, size=8):
        answered += len(window)
    assert answered == read == 1000


def test_a_window_of_long_texts_has_fewer_of_them(monkeypatch):
    monkeypatch.setattr(stream, "CHARACTERS", 100)
    rows = [("a" * (i % 60), "b" * (i % 7) if i % 3 else None) for i in range(200)]
    rows[50:52] = [("a" * 500, None), ("", None)]
    found = [window for window, _ in windows(iter(rows), predictor(), 4, size=8)]
    assert [row for window in found for row in window] == rows and {len(window) for window in found} > {2, 8}

    def characters(window):
        return sum(len(text) + len(pair or "") for text, pair in window)

    assert all(characters(window[:-1]) < 100 for window in found), "it ends with the row that makes it full"
    assert all(len(window) == 8 or characters(window) >= 100 for window in found[:-1])
    assert list(answers(iter(rows), predictor(), 4)) == expected(rows)


def test_a_wrong_row_is_told_after_the_answers_before_it():
    def rows():
        yield from ROWS[:7]
        raise ValueError("line 8 is wrong")

    found = []
    with pytest.raises(ValueError, match="line 8 is wrong"):
        for _, said in windows(rows(), predictor(), 1, size=3):
            found += said
    assert found == expected(ROWS[:7]) and gone()


@pytest.mark.parametrize("half", ["reads", "answers"])
def test_whoever_fails_the_answers_before_are_there(half):
    model = predictor()
    whole = getattr(model, half)

    def fails(*given):
        if "bad" in given[half == "answers"]:
            raise RuntimeError("found bad")
        return whole(*given)

    setattr(model, half, fails)
    rows, found = [*ROWS[:7], ("bad", None), *ROWS[:50]], []
    with pytest.raises(RuntimeError, match="found bad"):
        for _, said in windows(iter(rows), model, 1, size=3):
            found += said
    assert found == expected(ROWS[:6]) and gone()


def test_who_stops_early_leaves_no_thread_and_no_open_file():
    closed = []

    def rows():
        try:
            yield from ROWS * 100
        finally:
            closed.append(True)

    with closing(windows(rows(), predictor(), 1, size=2)) as found:
        next(found)
        assert reading()
    assert closed == [True] and not reading()


def test_a_pipe_is_answered_as_it_speaks():
    said = Queue()

    def rows():
        for row in ROWS[:5]:
            yield row
            said.get(timeout=20)  # the next one comes when this one was answered

    found = []
    for window, told in windows(rows(), predictor(), 32, live=True):
        found += told
        for _ in window:
            said.put(True)
    assert found == expected(ROWS[:5]) and gone()


def test_a_reader_that_waits_for_ever_holds_nobody_up():
    never = threading.Event()

    def rows():
        yield ROWS[0]
        never.wait(20)

    with closing(answers(rows(), predictor(), live=True)) as found:
        assert next(found) == expected(ROWS[:1])[0]
    assert reading()
    never.set()
    assert gone()


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 or more"):
        next(windows(iter(ROWS), predictor(), 0))


# --- files and pipes as rows ------------------------------------------------------------------------------------------


def test_rows_know_what_share_of_a_file_they_are(tmp_path):
    plain, table, packed = tmp_path / "a.txt", tmp_path / "a.csv", tmp_path / "a.txt.gz"
    plain.write_text("text\n" * 200)
    table.write_text("text,text_pair\n" + '"a\nb",c\n' * 200)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for file, row in ((plain, ("text", None)), (table, ("a\nb", "c"))):
        rows = Rows(str(file))
        assert rows.share(0) is None and not rows.live
        assert next(iter(rows)) == row and len(list(rows)) == 199 and rows.read == 200
        assert rows.share(50) == pytest.approx(0.25) and rows.share(200) == 1.0
    rows = Rows(str(packed))
    assert len(list(rows)) == 200 and rows.share(200) is None, "nobody knows how long it is unpacked"


def test_rows_of_parquet_are_counted_before(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", "b", "c", "d"]}), tmp_path / "a.parquet")
    rows = Rows(str(tmp_path / "a.parquet"))
    assert rows.share(1) == 0.25 and len(list(rows)) == 4
    (tmp_path / "b.parquet").write_text("none")
    with pytest.raises(ValueError, match=r"b\.parquet"):
        list(Rows(str(tmp_path / "b.parquet")))


def test_a_pipe_by_name_is_live(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    rows = Rows(str(tmp_path / "pipe"))
    writes = threading.Thread(target=(tmp_path / "pipe").write_text, args=("one\ntwo\n",))
    writes.start()
    assert rows.live and list(rows) == [("one", None), ("two", None)] and rows.share(2) is None
    writes.join()


def test_errors_name_the_file_as_before(tmp_path):
    (tmp_path / "a.csv").write_text("words\nb\n")
    with pytest.raises(ValueError, match=r"a\.csv has no column 'text'; it has: 'words'"):
        list(Rows(str(tmp_path / "a.csv")))
    with pytest.raises(FileNotFoundError, match=r"did you mean .*a\.csv"):
        Rows(str(tmp_path / "b.csv"))
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        Rows(str(tmp_path))


# --- the command, killed ----------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.argv[0] = "gossamer"
from gossamer.cli import main
try:
    main()
finally:
    heavy = [name for name in ("torch", "transformers", "ray", "openvino") if name in sys.modules]
    print(heavy, file=sys.stderr)
"""


def started(*args, **more):
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, args)], env=environ, stderr=-1, text=True, **more)


def test_a_command_that_is_killed_goes_on_and_ends_with_the_same_bytes(artefact, tmp_path):
    given, whole, out = tmp_path / "given.jsonl", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps({"text": f"w{i % 26} " * (1 + i * 7 % 40)}) + "\n" for i in range(6000)))
    base = ["predict", artefact.folder, "--input", given, "--batch-size", 8, "--engine", "onnxruntime"]
    base += ["--threads", 1, "--echo"]
    process = started(*base, "--output", whole)
    assert (process.communicate()[1], process.returncode) == ("[]\n", 0), "no torch, no transformers"
    part, memo = out.with_name("out.jsonl.part"), out.with_name("out.jsonl.part.json")
    rows = [0]
    for again in ([], ["--resume"]):
        process = started(*base, "--output", out, *again)
        while process.poll() is None:
            if memo.exists() and json.loads(memo.read_text())["rows"] > rows[-1]:
                process.kill()
                break
        process.communicate()
        rows.append(json.loads(memo.read_text())["rows"])
        assert not out.exists() and part.stat().st_size >= json.loads(memo.read_text())["bytes"]
    assert 0 < rows[1] < rows[2] < 6000 and rows[1] % 256 == 0
    with part.open("ab") as torn:
        torn.write(b'{"text": "w0 w0')
    process = started(*base, "--output", out)
    assert f"holds {rows[2]} answers of a run that has not ended; add --resume" in process.communicate()[1]
    process = started(*base, "--output", out, "--resume")
    assert (process.communicate()[1], process.returncode) == ("[]\n", 0)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.jsonl", "out.jsonl", "whole.jsonl"]
