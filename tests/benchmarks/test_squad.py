import json
import math
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.benchmarks.squad import Question, read, score, submission
from gossamer.metrics.passages import exact, normalize, token_f1

XQUAD = Path(__file__).parents[3] / "shared" / "data" / "xquad_en" / "xquad.en.json"
CONTEXT = "The Eiffel Tower, in Paris, is 330 m high."


def file(tmp_path, *qas, version="v2.0"):
    path = tmp_path / "dev.json"
    data = [{"title": "Tower", "paragraphs": [{"context": CONTEXT, "qas": list(qas)}]}]
    path.write_text(json.dumps({"version": version, "data": data}), encoding="utf-8")
    return path


def entry(name, *golds, **more):
    answers = [{"text": gold, "answer_start": max(0, CONTEXT.find(gold))} for gold in golds]
    return {"id": name, "question": f"{name}?", "answers": answers, **more}


def asked(name, *golds):
    return Question(name, f"{name}?", CONTEXT, tuple((gold, 0) for gold in golds))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat,\tsat\n", "cat sat"),
        ("A an the", ""),
        ("", ""),
        ("...!?", ""),
        ("theory of another banana", "theory of another banana"),  # articles are whole words
        ("U.S.A.", "usa"),  # punctuation goes before the articles, and leaves no space
        ("a.b", "ab"),
        ("vitamin-A", "vitamina"),
        ("the-cat", "thecat"),
        ("Ångström", "ångström"),
        ("“quoted”", "“quoted”"),  # only ASCII's punctuation
        ("caf\u00e9\u00a0A\u2003bar", "café bar"),  # all of Unicode's spaces
        ("ÀA a", "àa"),
        ("5 %", "5"),
    ],
)
def test_normalisation(text, normal):
    assert normalize(text) == normal


@given(st.text())
def test_normalising_leaves_single_spaces_and_no_articles(text):
    words = normalize(text).split(" ")
    assert words == [""] or not {"a", "an", "the", ""} & set(words)


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "f1"),
    [
        ("the Tower", ["tower"], 1, 1),
        ("Eiffel Tower", ["Tower of Eiffel", "tower"], 0, 0.8),
        ("no", ["yes"], 0, 0),
        ("the the tower tower", ["tower"], 0, 2 / 3),  # with repetition
        ("a b b", ["b b c"], 0, 2 * (2 / 2 * 2 / 3) / (1 + 2 / 3)),
        ("", [""], 1, 1),
        ("", [], 1, 1),
        ("", ["tower"], 0, 0),
        ("tower", [""], 0, 0),
        ("the", [""], 1, 1),  # nothing is left of either
        ("tower", "tower", 1, 1),  # a bare string is one gold, not six letters
        ("t", "tower", 0, 0),
    ],
)
def test_one_answer(prediction, golds, em, f1):
    assert exact(prediction, golds) == em
    assert token_f1(prediction, golds) == pytest.approx(f1)


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.lists(st.sampled_from("abcd"), max_size=6))
def test_f1_is_symmetric_and_within_its_range(one, other):
    one, other = (" ".join(letter * 2 for letter in words) for words in (one, other))
    f1 = token_f1(one, [other])
    assert f1 == token_f1(other, [one]) and 0 <= f1 <= 1
    assert (f1 == 1) == (Counter(one.split()) == Counter(other.split()))
    assert exact(one, [other]) <= f1


def test_files_of_both_versions_are_read(tmp_path):
    old = read(file(tmp_path, entry("q1", "Paris", "in Paris", "Paris"), version="1.1"))
    assert old == (Question("q1", "q1?", CONTEXT, (("Paris", 21), ("in Paris", 18), ("Paris", 21)), "Tower"),)
    assert old[0].golds == ("Paris", "in Paris") and old[0].answerable
    new = read(file(tmp_path, entry("q1", "Paris", is_impossible=False), entry("q2", is_impossible=True)))
    assert [(one.golds, one.answerable, one.impossible) for one in new] == [
        (("Paris",), True, False),
        (("",), False, True),
    ]
    assert asked("q", "the", "tower").golds == ("tower",)  # a gold of which nothing is left does not count


def test_scores_of_all_and_of_both_kinds():
    questions = [asked("q1", "Paris"), asked("q2", "330 m"), asked("q3"), asked("q4")]
    result = score(questions, {"q1": "in Paris", "q2": "330 m", "q3": "", "q4": "Paris"})
    assert (result.exact, result.n) == (0.5, 4)
    assert result.f1 == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
    assert asdict(result.has_answer) == pytest.approx({"exact": 0.5, "f1": (2 / 3 + 1) / 2, "n": 2})
    assert asdict(result.no_answer) == {"exact": 0.5, "f1": 0.5, "n": 2}
    assert result.best_exact is None and result.best_f1 is None
    assert score(questions[:2], {"q1": "Paris", "q2": "x"}).no_answer is None


def test_doubt_above_the_threshold_is_no_answer():
    questions = [asked("q1", "Paris"), asked("q2")]
    said, doubt = {"q1": "Paris", "q2": "Paris"}, {"q1": 0.2, "q2": 0.6}
    assert score(questions, said, doubt).exact == 0.5  # a threshold of 1 is none
    assert score(questions, said, doubt, 0.6).exact == 0.5  # not above it
    assert score(questions, said, doubt, 0.5).exact == 1
    result = score(questions, said, doubt, 0.1)
    assert (result.exact, result.has_answer.exact, result.no_answer.exact) == (0.5, 0, 1)
    assert asdict(result.best_exact) == {"score": 1.0, "threshold": 0.2}


rounds = st.lists(
    st.tuples(
        st.sampled_from(["", "x", "x y"]), st.sampled_from(["", "x", "y"]), st.sampled_from([0.0, 0.2, 0.5, 1.0])
    ),
    min_size=1,
    max_size=12,
)


@given(rounds)
def test_the_best_threshold_gives_what_it_promises_and_none_gives_more(cases):
    questions = [asked(str(i), *[gold] * bool(gold)) for i, (gold, _, _) in enumerate(cases)]
    said = {str(i): text for i, (_, text, _) in enumerate(cases)}
    doubt = {str(i): p for i, (_, _, p) in enumerate(cases)}
    result = score(questions, said, doubt)
    edges = sorted({-1.0, 2.0, *doubt.values()})
    tried = [*edges, *(float(np.mean(pair)) for pair in pairwise(edges))]
    for kind in ("exact", "f1"):
        best = getattr(result, f"best_{kind}")
        assert getattr(score(questions, said, doubt, best.threshold), kind) == pytest.approx(best.score)
        assert max(getattr(score(questions, said, doubt, t), kind) for t in tried) == pytest.approx(best.score)


def test_equal_doubts_move_together():
    """Counted one by one, right answers first, they would promise 1 at a threshold that gives 0.5."""
    questions = [asked("q1", "Paris"), asked("q2")]
    result = score(questions, {"q1": "Paris", "q2": "Paris"}, {"q1": 0.5, "q2": 0.5})
    assert asdict(result.best_exact) == {"score": 0.5, "threshold": 0.0}


def test_a_submission_is_one_object_of_texts_and_one_of_probabilities(tmp_path):
    questions = [asked("q1", "é"), asked("q2")]
    paths = submission(questions, {"q2": "", "q1": "é"}, tmp_path / "new" / "dev.json", no_answer={"q1": 0, "q2": 0.75})
    assert [path.name for path in paths] == ["dev.json", "dev_na_probs.json"]
    assert [path.read_text(encoding="utf-8") for path in paths] == ['{"q1": "é", "q2": ""}', '{"q1": 0.0, "q2": 0.75}']
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["dev.json", "dev_na_probs.json"]


def test_a_submission_never_overwrites_unasked(tmp_path):
    questions, place = [asked("q1")], tmp_path / "dev.json"
    (tmp_path / "dev_na_probs.json").write_text("mine")
    with pytest.raises(ValueError, match=r"dev_na_probs\.json exists; choose another folder, or pass replace=True"):
        submission(questions, {"q1": ""}, place, no_answer={"q1": 1.0})
    assert not place.exists() and (tmp_path / "dev_na_probs.json").read_text() == "mine"
    submission(questions, {"q1": ""}, place, no_answer={"q1": 1.0}, replace=True)
    assert (tmp_path / "dev_na_probs.json").read_text() == '{"q1": 1.0}'
    with pytest.raises(ValueError, match="1 of 1 no-answer probabilities are nan"):
        submission(questions, {"q1": ""}, tmp_path / "other.json", no_answer={"q1": math.inf})
    assert not (tmp_path / "other.json").exists()
    with pytest.raises(ValueError, match="is a folder"):
        submission(questions, {"q1": ""}, tmp_path, replace=True)


def test_what_cannot_be_scored_is_refused():
    questions = [asked("q1", "Paris"), asked("q2")]
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction, such as 'q2'"):
        score(questions, {"q1": "Paris"})
    with pytest.raises(ValueError, match="a prediction for 'q3', which is none of the 2 questions"):
        score(questions, {"q1": "", "q2": "", "q3": ""})
    with pytest.raises(ValueError, match="2 of 2 questions have no no-answer probability"):
        score(questions, {"q1": "", "q2": ""}, {})
    with pytest.raises(ValueError, match="1 of 2 no-answer probabilities are nan or inf, such as that of 'q1'"):
        score(questions, {"q1": "", "q2": ""}, {"q1": math.nan, "q2": 0.0})
    with pytest.raises(ValueError, match="no questions to score"):
        score([], {})


def test_broken_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere\.json'; expected a JSON file"):
        read(tmp_path / "nowhere.json")
    path = file(tmp_path, {"id": "q1", "question": "?", "answers": [{"text": "x"}]})
    with pytest.raises(ValueError, match=r"dev\.json, article 1, question 'q1' has no 'answer_start'; it has: 'text'"):
        read(path)
    with pytest.raises(ValueError, match="1 ids come twice, such as 'q1'"):
        read(file(tmp_path, entry("q1", "Paris"), entry("q1", "Paris")))
    with pytest.raises(ValueError, match="question 'q1' is impossible and has the answer 'Paris'"):
        read(file(tmp_path, entry("q1", "Paris", is_impossible=True)))
    with pytest.raises(ValueError, match="has no questions"):
        read(file(tmp_path))
    path.write_text('{"data": ')
    with pytest.raises(ValueError, match=r"dev\.json: not JSON"):
        read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"dev\.json: a list .*expected an object that has 'data'"):
        read(path)


@pytest.mark.skipif(not XQUAD.is_file(), reason="needs XQuAD's xquad.en.json in ../shared/data/xquad_en")
def test_a_real_file_scores_its_own_answers_perfectly():
    questions = read(XQUAD)
    assert len(questions) == 1190 and all(one.answerable for one in questions)
    for one in questions:
        for text, start in one.answers:
            assert one.context[start : start + len(text)] == text
    result = score(questions, {one.id: one.answers[0][0] for one in questions})
    assert (result.exact, result.f1, result.n, result.no_answer) == (1, 1, 1190, None)
