import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.benchmarks.superglue import (
    AXB,
    AXG,
    BOOLQ,
    CB,
    COPA,
    MULTIRC,
    RECORD,
    RTE,
    TASKS,
    WIC,
    WSC,
    Choice,
    Cloze,
    Mention,
    Option,
    Pair,
    Word,
    chosen,
    gender_parity,
    load,
    read,
    score,
    split,
    standing,
    submission,
    submit,
)
from gossamer.data import Split

RAIN = "It rained. Ann got wet. Bob stayed dry."
NEWS = "Tel Aviv (CNN) The Prime Minister, Golda Meir, met Nixon.\n@highlight\nMeir met Nixon"


def options(*labels):
    return [{"text": f"answer {i}", "idx": i} | ({} if one is None else {"label": one}) for i, one in enumerate(labels)]


def passage(idx, *questions, first=0):
    asked = [{"question": f"Who {i}?", "idx": i + first, "answers": options(*q)} for i, q in enumerate(questions)]
    return {"idx": idx, "version": 1.1, "passage": {"text": RAIN, "questions": asked}}


def mention(text):
    start = NEWS.index(text)
    return {"start": start, "end": start + len(text) - 1}  # the last character counted in


RECORDS = {
    BOOLQ: {"question": "is it wet", "passage": RAIN, "idx": 3, "label": True},
    CB: {"premise": "I think it rains.", "hypothesis": "it rains", "label": "neutral", "idx": 1},
    COPA: {"premise": "Ann got wet.", "choice1": "It rained.", "choice2": "It shone.", "question": "cause", "label": 0,
           "idx": 0},
    MULTIRC: passage(0, [1, 0], [0]),
    RECORD: {
        "source": "CNN/Daily Mail", "idx": 7,
        "passage": {"text": NEWS, "entities": [mention("Golda Meir"), mention("Nixon"), mention("Tel Aviv"),
                                               {"start": NEWS.rindex("Nixon"), "end": len(NEWS) - 1}]},
        "qas": [{"query": "@placeholder met her.", "idx": 70,
                 "answers": [mention("Nixon") | {"text": "Nixon"}, mention("Nixon") | {"text": "Nixon"}]},
                {"query": "He met @placeholder.", "idx": 71,
                 "answers": [mention("Golda Meir") | {"text": "Golda Meir"}, mention("Meir") | {"text": "Meir"}]}],
    },
    RTE: {"premise": "Dana Reeve died.", "hypothesis": "Dana is dead.", "label": "entailment", "idx": 0},
    WIC: {"word": "place", "sentence1": "Do you want to come to my place?", "sentence2": "A political system with no "
          "place.", "idx": 0, "label": False, "start1": 26, "end1": 31, "start2": 27, "end2": 32, "version": 1.1},
    WSC: {"text": "Mark told Pete many lies about himself, which Pete told. He lied.", "idx": 0, "label": True,
          "target": {"span1_text": "Mark", "span2_text": "He", "span1_index": 0, "span2_index": 10}},
    AXB: {"sentence1": "The cat sat.", "sentence2": "The cat did not sit.", "idx": 0, "label": "not_entailment",
          "logic": "Negation"},
    AXG: {"premise": "The nurse said she came.", "hypothesis": "The nurse came.", "idx": 0, "label": "entailment"},
}  # fmt: skip
ROWS = {
    BOOLQ: (Pair(3, "is it wet", RAIN, 1),),
    CB: (Pair(1, "I think it rains.", "it rains", 2),),
    COPA: (Choice(0, "Ann got wet.", "cause", ("It rained.", "It shone."), 0),),
    MULTIRC: (
        Option((0, 0, 0), RAIN, "Who 0?", "answer 0", 1),
        Option((0, 0, 1), RAIN, "Who 0?", "answer 1", 0),
        Option((0, 1, 0), RAIN, "Who 1?", "answer 0", 0),
    ),
    RECORD: (
        Cloze(70, NEWS, "@placeholder met her.", ("Golda Meir", "Nixon", "Tel Aviv"), ("Nixon",)),
        Cloze(71, NEWS, "He met @placeholder.", ("Golda Meir", "Nixon", "Tel Aviv"), ("Golda Meir", "Meir")),
    ),
    RTE: (Pair(0, "Dana Reeve died.", "Dana is dead.", 0),),
    WIC: (
        Word(
            0,
            "place",
            ("Do you want to come to my place?", "A political system with no place."),
            ((26, 31), (27, 32)),
            0,
        ),
    ),
    WSC: (Mention(0, RECORDS[WSC]["text"], ("Mark", "He"), (0, 10), 1),),
    AXB: (Pair(0, "The cat sat.", "The cat did not sit.", 1),),
    AXG: (Pair(0, "The nurse said she came.", "The nurse came.", 0),),
}
by_name = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def put(folder, task, part, *records):
    path = folder / task.places(part)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def unlabelled(task):
    record = RECORDS[task]
    if task is MULTIRC:
        return passage(0, [None, None], [None])
    if task is RECORD:
        return record | {"qas": [{key: query[key] for key in ("query", "idx")} for query in record["qas"]]}
    return {key: value for key, value in record.items() if key != "label"}


@by_name
def test_the_official_files_are_read(tmp_path, task):
    part = "test" if task.diagnostic else "dev"
    path = put(tmp_path, task, part, RECORDS[task])
    assert path.name == (f"{task.name}.jsonl" if task.diagnostic else "val.jsonl")
    rows = read(task, tmp_path, part)
    assert rows == ROWS[task]
    assert read(task, tmp_path / task.name, part) == rows  # the task's own folder will do


@by_name
def test_the_test_tells_no_labels_and_training_must(tmp_path, task):
    put(tmp_path, task, "test", unlabelled(task))
    rows = read(task, tmp_path, "test")
    assert rows == tuple(replace(row, label=None) for row in ROWS[task])
    with pytest.raises(ValueError, match="the rows carry no labels"):
        score(task, rows, ["x"] * len(rows) if task is RECORD else [0] * len(rows))
    if not task.diagnostic:
        put(tmp_path, task, "train", unlabelled(task))
        with pytest.raises(ValueError, match=r"train\.jsonl: \d of \d rows have no label, expected one each"):
            read(task, tmp_path, "train")


def test_spans_point_at_their_words():
    word, cloze, wsc = ROWS[WIC][0], ROWS[RECORD][0], ROWS[WSC][0]
    assert [text[a:b] for text, (a, b) in zip(word.sentences, word.spans, strict=True)] == ["place", "place"]
    assert all(entity in cloze.passage for entity in cloze.entities)
    assert [wsc.text.split()[place] for place in wsc.words] == list(wsc.texts)


def test_two_texts_and_a_class_become_data(tmp_path):
    for part in ("train", "dev"):
        put(tmp_path, RTE, part, RECORDS[RTE], RECORDS[RTE] | {"label": "not_entailment"})
        put(tmp_path, MULTIRC, part, RECORDS[MULTIRC])
    put(tmp_path, AXB, "test", RECORDS[AXB])
    data = load(RTE, tmp_path)
    assert data.dev == Split(("Dana Reeve died.",) * 2, ("Dana is dead.",) * 2, (0, 1))
    assert (data.name, data.labels, data.test) == ("RTE", ("entailment", "not_entailment"), None)
    assert load(AXB, tmp_path).test == split(ROWS[AXB])
    assert load(MULTIRC, tmp_path).train == Split(
        (f"{RAIN} Who 0?", f"{RAIN} Who 0?", f"{RAIN} Who 1?"), ("answer 0", "answer 1", "answer 0"), (1, 0, 0)
    )


def test_other_rows_become_pairs_too(tmp_path):
    for task in (COPA, RECORD, WIC, WSC):
        for part in ("train", "dev"):
            put(tmp_path, task, part, RECORDS[task])
    copa, record, wic, wsc = (load(task, tmp_path) for task in (COPA, RECORD, WIC, WSC))
    assert copa.dev == Split(("Ann got wet. What was the cause?",) * 2, ("It rained.", "It shone."), (1, 0))
    assert copa.labels == record.labels == ("0", "1")
    met = tuple(f"{name} met her." for name in ("Golda Meir", "Nixon", "Tel Aviv"))
    him = tuple(f"He met {name}." for name in ("Golda Meir", "Nixon", "Tel Aviv"))
    assert record.dev == Split((NEWS,) * 6, (*met, *him), (0, 1, 0, 1, 0, 0))
    first, second = RECORDS[WIC]["sentence1"], RECORDS[WIC]["sentence2"]
    assert wic.dev == Split((f"place: {first}",), (second,), (0,)) and wic.labels == ("false", "true")
    assert wsc.dev.texts == ("Mark told Pete many lies about himself, which Pete told. *He* lied.",)
    assert wsc.dev.pairs == ("Mark",) and wsc.dev.labels == (1,)
    assert split(tuple(replace(row, label=None) for row in ROWS[RECORD])).labels is None


def test_an_option_is_chosen():
    assert chosen(ROWS[COPA], [0.5, 0.75]) == [1]
    assert chosen(ROWS[RECORD], [0, 0, 0, 1.0, 3.0, 3.0]) == ["Golda Meir", "Nixon"], "of equals the first"
    for few in ([0.5], [0.5, 0.5, 0.5]):
        with pytest.raises(ValueError, match=f"{len(few)} scores of options, expected 2, one for each"):
            chosen(ROWS[COPA], few)
    with pytest.raises(ValueError, match="a Word has nothing to choose from; expected rows of COPA or ReCoRD"):
        chosen(ROWS[WIC], [0.5])
    with pytest.raises(ValueError, match="Cloze 70 has nothing to choose from; expected an entity or more"):
        split([replace(ROWS[RECORD][0], entities=())])


def multirc(*questions):
    return [
        Option((0, q, a), RAIN, "?", "!", label) for q, labels in enumerate(questions) for a, label in enumerate(labels)
    ]


def test_multirc_counts_options_and_whole_questions():
    rows = multirc([1, 0, 1], [0, 1], [0])
    said = [1, 0, 0, 0, 1, 0]  # 2 TP, 1 FN, no FP; the first question has one option wrong
    assert score(MULTIRC, rows, said) == pytest.approx({"f1_a": 2 * 2 / (2 * 2 + 1), "exact": 2 / 3})
    assert score(MULTIRC, rows, [1, 0, 1, 0, 1, 0]) == {"f1_a": 1, "exact": 1}
    assert score(MULTIRC, rows, [0] * 6) == pytest.approx({"f1_a": 0, "exact": 1 / 3})


@given(st.data(), st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=1, max_size=5))
def test_multirc_is_the_count_by_hand_in_any_order(data, questions):
    rows = multirc(*questions)
    said = data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows)))
    tp = sum(one == row.label == 1 for row, one in zip(rows, said, strict=True))
    wrong = {row.idx[1] for row, one in zip(rows, said, strict=True) if one != row.label}
    positives = sum(said) + sum(row.label for row in rows)
    expected = {"f1_a": 2 * tp / positives if positives else 0, "exact": 1 - len(wrong) / len(questions)}
    assert score(MULTIRC, rows, said) == pytest.approx(expected)
    order = data.draw(st.permutations(range(len(rows))))
    assert score(MULTIRC, [rows[i] for i in order], [said[i] for i in order]) == pytest.approx(expected)


def test_questions_of_different_passages_are_different_questions():
    rows = [Option((p, 0, 0), RAIN, "?", "!", 1) for p in (0, 1)]
    assert score(MULTIRC, rows, [1, 0])["exact"] == 0.5


def test_record_takes_the_best_mention():
    assert score(RECORD, ROWS[RECORD], ["the Nixon", "Meir"]) == {"exact": 1, "f1": 1}
    assert score(RECORD, ROWS[RECORD], ["Tel Aviv", "Golda"]) == pytest.approx({"exact": 0, "f1": (0 + 2 / 3) / 2})
    with pytest.raises(ValueError, match="ReCoRD, prediction 1: 3, expected the text of an entity"):
        score(RECORD, ROWS[RECORD], [3, "Meir"])


def test_metrics_of_the_other_tasks():
    rows = [Pair(i, "a", "b", label) for i, label in enumerate([0, 0, 1, 2])]
    assert score(CB, rows, ["entailment", "entailment", "neutral", "neutral"]) == pytest.approx(
        {"accuracy": 0.75, "macro_f1": (1 + 0 + 2 / 3) / 3}
    )
    two = rows[:3]
    assert score(RTE, two, [0, 0, 1]) == {"accuracy": 1}
    assert score(BOOLQ, two, [False, "false", np.bool_(True)]) == {"accuracy": 1}
    assert score(AXB, two, [1, 1, 0]) == {"matthews": pytest.approx(-1)}
    assert score(AXG, [*two, rows[2]], [0, 1, 1, 1]) == {"accuracy": 0.75, "gender_parity": 0.5}
    assert score(COPA, ROWS[COPA], [1]) == score(WSC, ROWS[WSC], [0]) == score(WIC, ROWS[WIC], ["true"])


def test_parity_needs_pairs():
    assert gender_parity(["a", "a", "b", "c"]) == 0.5
    for odd in ([], [1, 1, 0]):
        with pytest.raises(ValueError, match="expected two for each pair"):
            gender_parity(odd)


def test_the_leaderboards_average():
    results = {task.name: {"accuracy": 0.5} for task in TASKS}
    results["MultiRC"] = {"f1_a": 0.7, "exact": 0.3}  # 0.5
    results["CB"] = {"accuracy": 1.0, "macro_f1": 0.8}  # 0.9
    results["AX-b"] = {"matthews": -1.0}  # does not count
    assert standing(results).average == pytest.approx((7 * 0.5 + 0.9) / 8)
    del results["WSC"]
    assert (standing(results).average, standing(results).missing) == (None, ("WSC",))
    assert standing(results, without=["WSC"]).average == pytest.approx((6 * 0.5 + 0.9) / 7)


def test_each_file_of_a_submission_has_its_own_labels():
    written = {
        BOOLQ: '{"idx": 3, "label": "true"}\n',
        CB: '{"idx": 1, "label": "contradiction"}\n',
        COPA: '{"idx": 0, "label": 1}\n',
        RTE: '{"idx": 0, "label": "not_entailment"}\n',
        WIC: '{"idx": 0, "label": "true"}\n',
        WSC: '{"idx": 0, "label": "True"}\n',
        AXB: '{"idx": 0, "label": "not_entailment"}\n',
        AXG: '{"idx": 0, "label": "not_entailment"}\n',
    }
    assert {task: submission(task, ROWS[task], [1]) for task in written} == written
    assert submission(RECORD, ROWS[RECORD], ["Nixon", "Meir"]) == (
        '{"idx": 70, "label": "Nixon"}\n{"idx": 71, "label": "Meir"}\n'
    )


def test_multircs_file_is_nested_as_its_data(tmp_path):
    put(tmp_path, MULTIRC, "test", passage(4, [None, None], [None]), passage(9, [None], first=2))
    rows = read(MULTIRC, tmp_path, "test")
    lines = [json.loads(line) for line in submission(MULTIRC, rows, [1, 0, 0, 1]).splitlines()]
    assert lines == [
        {"idx": 4, "passage": {"questions": [
            {"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},
            {"idx": 1, "answers": [{"idx": 0, "label": 0}]},
        ]}},
        {"idx": 9, "passage": {"questions": [{"idx": 2, "answers": [{"idx": 0, "label": 1}]}]}},
    ]  # fmt: skip


def test_a_submission_has_ten_files_and_overwrites_none_unasked(tmp_path):
    predictions = {task.name: (ROWS[task], ["x"] * 2 if task is RECORD else [0] * len(ROWS[task])) for task in TASKS}
    paths = submit(predictions, tmp_path / "new")
    names = ["AX-b", "AX-g", "BoolQ", "CB", "COPA", "MultiRC", "RTE", "ReCoRD", "WSC", "WiC"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{name}.jsonl" for name in names]
    assert sorted(path.stem for path in paths) == names
    (tmp_path / "AX-g.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"AX-g\.jsonl exists; choose another folder, or pass replace=True"):
        submit(predictions, tmp_path)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["AX-g.jsonl"]
    submit(predictions, tmp_path, replace=True)
    assert (tmp_path / "AX-g.jsonl").read_text() == '{"idx": 0, "label": "entailment"}\n'
    del predictions["CB"]
    with pytest.raises(ValueError, match="missing: CB; unknown: SNLI"):
        submit(predictions | {"SNLI": ((), ())}, tmp_path / "other")


@pytest.mark.parametrize(
    ("task", "change", "error"),
    [
        (RTE, {"label": "maybe"}, r"val\.jsonl, line 1, 'label': 'maybe', expected 'entailment', 'not_entailment'"),
        (COPA, {"label": 2}, r"line 1, 'label': 2, expected '0', '1' or their number, 0 to 1"),
        (COPA, {"question": "why"}, r"'question' is 'why', expected 'cause' or 'effect'"),
        (CB, {"premise": None}, r"line 1: 'premise' is nothing \(null\), expected str"),
        (CB, {"idx": True}, r"line 1: 'idx' is a truth value \(True\), expected int"),
        (WIC, {"end2": 99}, r"line 1: word 2 from 27 to 99 of 33 characters"),
        (WSC, {"target": {}}, r"line 1 has no 'span1_text'; it has: nothing"),
        (MULTIRC, {"passage": {"text": "x", "questions": [3]}}, r"line 1: a number \(3\), expected an object that has"),
        (MULTIRC, {"passage": {"text": "x", "questions": []}}, "has nothing to predict"),
        (
            RECORD,
            {"passage": {"text": "x", "entities": [{"start": 0, "end": 5}]}},
            "an entity from 0 to 5 in a passage",
        ),
    ],
)
def test_what_a_row_lacks_is_named(tmp_path, task, change, error):
    put(tmp_path, task, "dev", RECORDS[task] | change)
    with pytest.raises(ValueError, match=error):
        read(task, tmp_path, "dev")


def test_broken_and_missing_files_are_named(tmp_path):
    path = put(tmp_path, RTE, "dev")
    with pytest.raises(ValueError, match=r"val\.jsonl is empty; expected one object per line"):
        read(RTE, tmp_path, "dev")
    path.write_text('{"idx": 0\n')
    with pytest.raises(ValueError, match=r"val\.jsonl, line 1: not JSON"):
        read(RTE, tmp_path, "dev")
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=r"val\.jsonl, line 1: a list .*expected one object per line"):
        read(RTE, tmp_path, "dev")
    with pytest.raises(FileNotFoundError, match=r"has no test of RTE; expected RTE/test\.jsonl or test\.jsonl in it"):
        read(RTE, tmp_path, "test")
    with pytest.raises(ValueError, match="AX-g has no part 'train'; expected 'test'"):
        read(AXG, tmp_path, "train")


def test_predictions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="RTE: 2 predictions for 1 rows, expected one each"):
        score(RTE, ROWS[RTE], [0, 1])
    with pytest.raises(
        ValueError, match="RTE, prediction 1: 2, expected 'entailment', 'not_entailment' or their number"
    ):
        submission(RTE, ROWS[RTE], [2])
