"""Passages, windows, and nothing."""

import numpy as np
import pytest

from gossamer.data import Split
from gossamer.task import QuestionAnswering, encode
from gossamer.task.reading import reads
from tests import texts

ASKED = QuestionAnswering(nothing=True)


def windows(context, question="w90", longest=16, task=ASKED):
    [read] = reads(task, texts.tokenizer(), [question], [context], longest)
    return [read, *read.more]


def said(parts, start=(), end=()):
    """Logits that are high at these (window, token of it), and 0 elsewhere."""
    found = []
    for i, part in enumerate(parts):
        first, last = np.zeros((1, len(part.ids))), np.zeros((1, len(part.ids)))
        for window, place, value in start:
            if window == i:
                first[0, place] = value
        for window, place, value in end:
            if window == i:
                last[0, place] = value
        found.append(ASKED.cut([first, last], 0, part))
    return found


def test_a_long_context_is_read_in_windows_that_overlap():
    words = [f"w{i}" for i in range(10, 50)]
    context = " ".join(words)
    parts = windows(context)
    assert len(parts) > 3 and all(len(part.ids) <= 16 for part in parts)
    seen = [context[a:b] for part in parts for a, b in part.note[1]]
    assert set(seen) == set(words), "every word is in some window"
    assert [context[a:b] for a, b in parts[1].note[1]][:4] == [context[a:b] for a, b in parts[0].note[1]][-4:]
    assert all(part.ids[1] == 90 for part in parts), "the question is in each"


def test_a_question_that_is_cut_is_told_and_a_context_in_windows_is_not(caplog):
    context = " ".join(f"w{i}" for i in range(10, 50))
    [plain] = reads(ASKED, texts.tokenizer(), ["w90 w91 w92 w93 w94"], [context], 16)
    [long] = reads(ASKED, texts.tokenizer(), ["w90 w91 w92 w93 w94 w95"], [context], 16)
    assert long.ids == plain.ids and plain.more and (plain.cut, long.cut) == (False, True)
    encode(ASKED, texts.tokenizer(), Split(("w90",), (context,), ((),)), 16)
    assert not caplog.text
    encode(ASKED, texts.tokenizer(), Split(("w90", "w90 " * 9), (context,) * 2, ((),) * 2), 16)
    assert "1 of 2 questions are longer than 5 tokens and are truncated; the longest has 36 characters" in caplog.text


def test_labels_are_where_the_answer_is_whole():
    words = [f"w{i}" for i in range(10, 50)]
    context = " ".join(words)
    start = context.index("w20 ")
    split = Split(("w90",), (context,), ((("w20 w21", start),),))
    examples = encode(ASKED, texts.tokenizer(), split, 16)
    found = [(e["start_positions"], e["end_positions"]) for e in examples]
    inside = [(i, a, b) for i, (a, b) in enumerate(found) if a]
    assert inside, "at least one window has it"
    for i, a, b in inside:
        assert examples[i]["input_ids"][a : b + 1] == [20, 21]
    assert all((a, b) == (0, 0) for i, (a, b) in enumerate(found) if i not in {i for i, *_ in inside})
    none = encode(ASKED, texts.tokenizer(), Split(("w90",), (context,), ((),)), 16)
    assert all((e["start_positions"], e["end_positions"]) == (0, 0) for e in none)


def test_the_best_passage_of_all_windows_is_the_answer():
    context = " ".join(f"w{i}" for i in range(10, 50))
    parts = windows(context)
    place = int(parts[2].note[0][3])
    found = said(parts, start=[(2, place, 5.0), (0, 4, 4.0)], end=[(2, place + 1, 5.0)])
    answer = ASKED.join(found, parts[0], "w90", context, None)
    a, b = parts[2].note[1][3][0], parts[2].note[1][4][1]
    assert answer == {"answer": context[a:b], "start": a, "score": 10.0}


def test_nothing_is_an_answer_where_it_may_be():
    context = " ".join(f"w{i}" for i in range(10, 50))
    parts = windows(context)
    every = [(i, 0, 3.0) for i in range(len(parts))]
    found = said(parts, start=[*every, (1, 5, 2.0)], end=every)
    assert ASKED.join(found, parts[0], "w90", context, None) == {"answer": "", "start": -1, "score": 6.0}
    answer = QuestionAnswering().join(found, parts[0], "w90", context, None)
    assert answer["answer"], "a passage, where nothing is not allowed"
    one = said(parts, start=[*every[1:], (1, 5, 2.0)], end=every[1:])
    assert ASKED.join(one, parts[0], "w90", context, None)["answer"], "all windows must say so: the least counts"


def test_an_end_before_its_start_and_an_answer_too_long_do_not_count():
    context = " ".join(f"w{i}" for i in range(10, 99))
    [part] = windows(context, longest=128)
    places = part.note[0]
    found = said([part], start=[(0, int(places[50]), 9.0)], end=[(0, int(places[10]), 9.0), (0, int(places[85]), 9.0)])
    assert found[0]["score"] == 9.0, "neither goes with the start"


def test_scores_are_those_of_squad():
    answers = [{"answer": "the cat", "start": 0, "score": 1.0}, {"answer": "", "start": -1, "score": 0.0}]
    labels = [(("cat", 4), ("a cat sat", 0)), ()]
    assert ASKED.right(answers, labels).tolist() == [1, 1]
    assert ASKED.score(answers, labels) == 1.0
    assert ASKED.score(answers[::-1], labels) == 0.0


def test_questions_need_contexts():
    with pytest.raises(ValueError, match=r"questions without contexts; name the column of the contexts with --pair"):
        encode(ASKED, texts.tokenizer(), Split(("w90",), None, ((),)), 16)
