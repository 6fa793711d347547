"""Intents and spam as data; retrieval and similarity against brute force."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.benchmarks import intents
from gossamer.data import Data

REAL = Path(__file__).parents[3] / "shared" / "data"

cases = st.integers(1, 5).flatmap(
    lambda depth: st.lists(
        st.tuples(
            st.permutations(range(7)).map(lambda order: order[:depth]),
            st.dictionaries(st.integers(0, 6), st.floats(0.25, 4), min_size=1),
        ),
        min_size=1,
        max_size=4,
    )
)


def clinc(tmp_path, **more):
    parts = {
        "train": [["pay my bill", "pay"], ["say it in french", "translate"], ["pay up", "pay"]],
        "val": [["translate this", "translate"]], "test": [["pay them", "pay"], ["in spanish", "translate"]],
        "oos_train": [["who am i", "oos"]], "oos_val": [["why", "oos"]], "oos_test": [["how", "oos"], ["what", "oos"]],
    } | more  # fmt: skip
    file = tmp_path / "data_full.json"
    file.write_text(json.dumps(parts), encoding="utf-8")
    return file


def test_clinc_with_and_without_what_is_out_of_scope(tmp_path):
    data = intents.clinc150(clinc(tmp_path))
    assert isinstance(data, Data) and data.labels == ("oos", "pay", "translate") and data.name == "CLINC150 (data_full)"
    assert data.test.texts == ("pay them", "in spanish", "how", "what") and data.test.labels == (1, 2, 0, 0)
    assert (len(data.train), len(data.dev)) == (4, 2)
    inside = intents.clinc150(clinc(tmp_path), out_of_scope=False)
    assert inside.labels == ("pay", "translate") and inside.test.labels == (0, 1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"val": [["dance", "dance"]]}, "val has the intent 'dance', unseen in train"),
        ({"test": [["one cell"]]}, r"test 1: \['one cell'\], expected \[text, intent\]"),
        ({"oos_val": None}, "'oos_val' is"),
        ({"val": [], "oos_val": []}, "val has no examples"),
    ],
)
def test_clinc_files_that_are_not_are_refused(tmp_path, more, words):
    with pytest.raises(ValueError, match=words):
        intents.clinc150(clinc(tmp_path, **more))


def test_the_real_clinc():
    file = REAL / "clinc150" / "data_full.json"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    data = intents.clinc150(file)
    assert len(data.labels) == 151 and [len(s) for s in data.splits.values()] == [15100, 3100, 5500]
    inside = intents.clinc150(file, out_of_scope=False)
    assert len(inside.labels) == 150 and [len(s) for s in inside.splits.values()] == [15000, 3000, 4500]
    assert all(inside.train.labels.count(i) == 100 for i in range(150))


def test_scope_tells_the_two_kinds_apart():
    found = intents.scope([0, 1, 1, 2, 0], [0, 1, 2, 0, 0], out=0)
    assert asdict(found) == {"in_scope_accuracy": 0.5, "out_of_scope_recall": pytest.approx(2 / 3)}
    for labels in ([1, 2], [0, 0]):
        with pytest.raises(
            ValueError, match=r"of 2 examples are out of scope \(class 0\): expected some of both kinds"
        ):
            intents.scope(labels, labels, out=0)
    with pytest.raises(ValueError, match=r"shape \(2,\) for labels of \(1,\)"):
        intents.scope([0, 1], [0], out=0)


def test_banking_is_csv(tmp_path):
    rows = [f'"where is my card, no {i}",card_arrival\n"what rate {i}",exchange_rate\n' for i in range(30)]
    (tmp_path / "train.csv").write_text("text,category\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "test.csv").write_text("text,category\nthe rate?,exchange_rate\n", encoding="utf-8")
    (tmp_path / "categories.json").write_text('["card_arrival", "exchange_rate"]', encoding="utf-8")
    data = intents.banking77(tmp_path)
    assert data.labels == ("card_arrival", "exchange_rate") and data.test.labels == (1,)
    assert len(data.train) + len(data.dev) == 60 and len(data.dev) == 6 and data.name.startswith("Banking77")


def test_spam_keeps_quotes_and_equal_messages_together(tmp_path):
    file = tmp_path / "SMSSpamCollection"
    lines = [f'ham\t"Ok {i}, see you\n' for i in range(40)] + [f"spam\tWIN {i % 15} £ now\n" for i in range(30)]
    file.write_text("".join(lines), encoding="utf-8")
    data = intents.sms_spam(file)
    assert data.labels == ("ham", "spam") and data.name == "SMS Spam Collection (split 80/10/10 by seed 0)"
    assert sum(len(split) for split in data.splits.values()) == 70
    assert any(text.startswith('"Ok') for text in data.train.texts)
    texts = [set(split.texts) for split in data.splits.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert data == intents.sms_spam(file) and data != intents.sms_spam(file, seed=1)


def test_spam_lines_that_are_none_are_refused(tmp_path):
    file = tmp_path / "spam"
    for wrong in ("eggs\ttext", "ham and eggs", ""):
        file.write_text(f"ham\tfine\n{wrong}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"line 2: begins with .* expected ham or spam and a tab"):
            intents.sms_spam(file)
    with pytest.raises(FileNotFoundError, match="expected the SMS Spam Collection"):
        intents.sms_spam(tmp_path / "none")


def test_golden_ranking_figures():
    ranked, relevant = [[3, 1, 0], [2, 0, 1]], [{1: 3.0, 2: 1.0}, [2]]
    assert intents.recall_at(ranked, relevant, 3) == pytest.approx((1 / 2 + 1) / 2)
    assert intents.reciprocal_rank(ranked, relevant) == pytest.approx((1 / 2 + 1) / 2)
    first = (3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert intents.ndcg_at(ranked, relevant, 3) == pytest.approx((first + 1) / 2)


@given(cases, st.integers(1, 8))
def test_figures_are_those_of_brute_force(given_, k):
    ranked, relevant = [list(order) for order, _ in given_], [gains for _, gains in given_]
    recall, first, gain = [], [], []
    for order, gains in given_:
        top = list(order)[:k]
        recall.append(len([d for d in top if d in gains]) / len(gains))
        places = [place for place, d in enumerate(top, 1) if d in gains]
        first.append(1 / places[0] if places else 0)
        got = sum(gains.get(d, 0) / math.log2(place + 1) for place, d in enumerate(top, 1))
        best = sorted(gains.values(), reverse=True)[:k]
        gain.append(got / sum(g / math.log2(place + 1) for place, g in enumerate(best, 1)))
    assert intents.recall_at(ranked, relevant, k) == pytest.approx(np.mean(recall), abs=1e-9)
    assert intents.reciprocal_rank(ranked, relevant, k) == pytest.approx(np.mean(first), abs=1e-9)
    assert intents.ndcg_at(ranked, relevant, k) == pytest.approx(np.mean(gain), abs=1e-9)


def test_gains_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    gains, seen = draw.integers(0, 4, (6, 12)), draw.normal(size=(6, 12))
    gains[:, 0] = 1  # each query has something to find
    relevant = [{d: float(g) for d, g in enumerate(row) if g} for row in gains]
    for k in (1, 3, 12):
        other = metrics.ndcg_score(gains, seen, k=k)
        assert intents.ndcg_at(np.argsort(-seen, 1), relevant, k) == pytest.approx(other, abs=1e-6)


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_a_ranking_is_that_of_brute_force(q, n, k, seed):
    draw = np.random.default_rng(seed)
    queries, documents = draw.normal(size=(q, 3)), draw.normal(size=(n, 3))
    ranked = intents.ranking(queries, documents, k)
    assert ranked.shape == (q, min(k, n))
    for query, found in zip(queries[:5], ranked, strict=False):
        near = [query @ d / np.linalg.norm(query) / np.linalg.norm(d) for d in documents]
        assert list(found) == sorted(range(n), key=lambda i: -near[i])[:k]


def test_lengths_do_not_matter_and_equals_go_by_number():
    documents = np.array([[0.0, 2], [3, 0], [1e-200, 0], [1e200, 0]])
    assert intents.ranking([[1.0, 0]], documents).tolist() == [[1, 2, 3, 0]]
    assert intents.cosines([[1e200, 0]], [[1e-200, 1e-200]])[0] == pytest.approx(math.sqrt(0.5))


def test_retrieval_from_embeddings():
    found = intents.retrieval([[1.0, 0], [0, 1]], [[1.0, 0.1], [0.9, 0.5], [0, 1.0]], [[1], {2: 2.0}], k=1)
    assert asdict(found) == {"recall": 0.5, "reciprocal_rank": 0.5, "ndcg": 0.5, "k": 1, "queries": 2}
    assert intents.retrieval([[1.0, 0]], [[1.0, 0.1], [0.9, 0.5]], [[1]]).reciprocal_rank == 0.5


def test_similarity_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(1)
    one, other, judged = draw.normal(size=(30, 4)), draw.normal(size=(30, 4)), draw.integers(0, 6, 30) / 1.0
    near = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(one, other, strict=True)]
    assert intents.sts(one, other, judged) == pytest.approx(stats.spearmanr(near, judged).statistic, abs=1e-9)
    assert intents.sts(one, other, intents.cosines(one, other) ** 3) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: intents.ranking([[0.0, 0]], [[1.0, 0]]), "1 of 1 embeddings of the queries have no direction"),
        (
            lambda: intents.ranking([[1.0, 0]], [[1.0, 0], [math.nan, 0]]),
            "embeddings of the documents .* first in row 1",
        ),
        (lambda: intents.ranking([[1.0, 0]], [[1.0]]), "queries of width 2, documents of 1"),
        (lambda: intents.ranking([1.0, 0], [[1.0]]), r"embeddings of the queries have the shape \(2,\)"),
        (lambda: intents.retrieval([[1.0]], [[1.0]], [[1]]), "query 0: document 1 of 1"),
        (lambda: intents.recall_at([[0]], [[]], 1), "query 0 has no relevant document"),
        (lambda: intents.recall_at([[0]], [{0: 0.0}], 1), r"query 0 has \{0: 0.0\}: expected .* gains above 0"),
        (lambda: intents.recall_at([[0]], [[0]], 0), "the first 0 documents: expected 1 or more"),
        (lambda: intents.recall_at([[0, 0]], [[0]], 1), "query 0 ranks a document twice"),
        (lambda: intents.recall_at([[0]], [[0], [1]], 1), "relevant documents for 2 queries, found 1"),
        (lambda: intents.recall_at([], [], 1), r"a ranking of shape \(0,\)"),
        (lambda: intents.cosines([[1.0]], [[1.0], [2.0]]), r"shape \(1, 1\) against \(2, 1\)"),
        (lambda: intents.sts([[1.0], [2.0]], [[1.0], [2.0]], [1, 2]), "are 1: they correlate with nothing"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
