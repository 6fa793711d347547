import json
import sys
from dataclasses import asdict, dataclass
from itertools import product
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure.attack import (
    STOP_WORDS,
    WORD,
    CharacterEdits,
    FirstOf,
    Synonyms,
    attack,
    textattack_model,
)
from gossamer.measure.loyalty import softmax

WEIGHTS = {"great": 3.0, "nice": 1.0, "fine": 0.4, "bad": -2.0, "poor": -1.0}


class Weighted:
    """Class 1 where the words it knows weigh more than 0 together; counts what it was asked."""

    def __init__(self, weights=WEIGHTS):
        self.weights, self.asked, self.pairs = weights, [], []

    def logits(self, texts, pairs=None, batch_size=32):
        self.asked += texts
        self.pairs += [] if pairs is None else pairs
        found = []
        for start in range(0, len(texts), batch_size):
            for text in texts[start : start + batch_size]:
                found.append(sum(self.weights.get(word.lower(), 0) for word in WORD.findall(text)))
        x = np.array(found)
        return np.stack([0.1 - x, x - 0.1], -1)


@dataclass(frozen=True)
class Listed:
    words: tuple[tuple[str, tuple[str, ...]], ...]
    name: str = "listed"

    def candidates(self, word):
        return dict(self.words).get(word, ())


SOURCE = Listed((("great", ("big", "nice")), ("nice", ("pleasant", "fine")), ("film", ("movie",))))


def test_it_flips_the_answer_with_exactly_the_words_it_takes():
    found = attack(Weighted(), ["A great, nice film for the day!"], [1], source=SOURCE)
    (attempt,) = found.attempts
    assert attempt.text == "A big, pleasant film for the day!"  # great first: its deletion costs most
    assert attempt.replaced == (("great", "big"), ("nice", "pleasant"))
    assert (attempt.outcome, attempt.words) == ("succeeded", 7)
    assert attempt.queries == 1 + 4 + 2 + 2  # clean; great, nice, film, day deleted; two candidates each
    assert found.perturbed == pytest.approx(2 / 7)


def test_one_word_is_enough_where_it_is():
    (attempt,) = attack(Weighted(), ["the nice bad great day"], [1], source=SOURCE).attempts
    assert attempt.replaced == (("great", "big"),)
    assert attempt.text == "the nice bad big day"


def test_a_lone_candidate_word_needs_no_ranking_and_nothing_empty_is_asked():
    model = Weighted()
    (attempt,) = attack(model, ["nice"], [1], source=SOURCE).attempts
    assert (attempt.queries, attempt.outcome) == (3, "succeeded")
    assert model.asked == ["nice", "pleasant", "fine"]


def test_of_candidates_that_fool_the_first_of_the_source_is_taken():
    source = Listed((("nice", ("fine", "plain", "bad")),))
    (attempt,) = attack(Weighted(), ["nice"], [1], source=source).attempts
    assert attempt.replaced == (("nice", "plain"),)  # bad fools more, plain is the better synonym


def test_a_word_is_replaced_only_where_that_helps():
    source = Listed((("fine", ("great",)), ("great", ("nice",))))
    (attempt,) = attack(Weighted(), ["fine great"], [1], source=source).attempts
    assert (attempt.outcome, attempt.replaced, attempt.text) == ("failed", (("great", "nice"),), "fine nice")


def test_counts_and_rates_golden():
    texts = ["a nice film", "a bad film", "great great great", "poor nice"]
    model = Weighted()
    found = attack(model, texts, [1, 0, 1, 1], source=SOURCE, max_share=0.5)
    assert [one.outcome for one in found.attempts] == ["succeeded", "failed", "failed", "skipped"]
    assert (found.examples, found.skipped, found.failed, found.succeeded) == (4, 1, 2, 1)
    assert (found.original_accuracy, found.after_attack_accuracy) == (0.75, 0.5)
    assert found.success_rate == pytest.approx(1 / 3)
    queries = [one.queries for one in found.attempts]
    assert queries == [1 + 2 + 2, 1 + 2 + 1, 1 + 3 + 2, 1]
    assert sum(queries) == len(model.asked)
    assert found.mean_queries == pytest.approx(np.mean(queries[:3]))  # the skipped one is left out
    assert found.perturbed == pytest.approx(1 / 3)  # of the successful one


def test_it_is_tagged_as_another_attack_than_textfooler():
    found = attack(Weighted(), ["nice"], [1])
    assert (found.attack, found.source) == ("greedy word substitution", "gossamer synonyms 1 (English), 2026-11")
    assert json.dumps(asdict(found))


def test_nothing_to_average_is_none():
    found = attack(Weighted(), ["nice"], [0], source=SOURCE)
    assert (found.success_rate, found.mean_queries, found.perturbed) == (None, None, None)
    assert (found.original_accuracy, found.after_attack_accuracy) == (0.0, 0.0)


def test_equation_2_rewards_a_deletion_that_changes_the_answer():
    class Table:
        """Three classes; `blue` is the text without red, and the other way round."""

        asked: list[str]

        def logits(self, texts, pairs=None, batch_size=32):
            self.asked += texts
            known = {"blue": (0.40, 0.35, 0.25), "red": (0.41, 0.01, 0.58)}
            return np.log([known.get(text, (0.5, 0.3, 0.2)) for text in texts])

    table = Table()
    table.asked = []
    attack(table, ["red blue"], [0], source=Listed((("red", ("ruby",)), ("blue", ("navy",)))))
    # red takes 0.10 from class 0 and blue only 0.09, but without blue class 2 wins 0.38: blue comes first
    assert table.asked == ["red blue", "blue", "red", "red navy", "ruby blue"]


def test_stop_words_and_repeats_are_left_alone():
    source = Listed((("not", ("hardly",)), ("the", ("a",)), ("nice", ("fine",)), ("fine", ("bad",))))
    (attempt,) = attack(Weighted(), ["the nice not"], [1], source=source).attempts
    assert (attempt.outcome, attempt.text) == ("failed", "the fine not")  # fine is not replaced again


def test_at_most_so_many_candidates_and_words():
    source = Listed((("nice", tuple(f"w{i}" for i in range(80))), ("great", ("big",))))
    model = Weighted()
    attack(model, ["nice"], [1], source=source)
    assert len(model.asked) == 1 + 50
    (attempt,) = attack(Weighted(), ["nice"], [1], source=source, candidates=7).attempts
    assert attempt.queries == 1 + 7
    (few,) = attack(Weighted(), ["great nice"], [1], source=source, max_share=0.1).attempts
    assert (few.outcome, few.replaced) == ("failed", (("great", "big"),))  # one is always allowed


def test_case_is_kept_and_the_word_itself_is_no_candidate():
    source = Listed((("nice", ("Nice", "fine", "fine")), ("great", ("big",))))
    (attempt,) = attack(Weighted(), ["Nice GREAT"], [1], source=source).attempts
    assert attempt.text == "Fine BIG" and attempt.queries == 1 + 2 + 1 + 1


@pytest.mark.parametrize(("edit", "asked"), [(None, "second"), ("second", "second"), ("first", "first")])
def test_of_pairs_the_second_is_attacked_unless_told_otherwise(edit, asked):
    class Both(Weighted):
        def logits(self, texts, pairs=None, batch_size=32):
            self.pairs += pairs
            return super().logits([f"{a} {b}" for a, b in zip(texts, pairs, strict=True)], None, batch_size)

    model = Both()
    found = attack(model, ["nice"], [1], pairs=["great"], source=SOURCE, edit=edit)
    assert found.edited == asked
    assert all(one.startswith("nice ") if asked == "second" else one.endswith(" great") for one in model.asked)
    (attempt,) = found.attempts
    assert attempt.text == {"second": "big", "first": "pleasant"}[asked]


@given(
    st.lists(st.lists(st.sampled_from([*WEIGHTS, "film", "the"]), max_size=5).map(" ".join), min_size=1, max_size=80)
)
def test_batches_and_company_do_not_change_results(texts):
    labels = [len(text) % 2 for text in texts]
    together = attack(Weighted(), texts, labels, source=SOURCE)
    assert together == attack(Weighted(), texts, labels, source=SOURCE, batch_size=1)
    one_by_one = [attack(Weighted(), [t], [y], source=SOURCE).attempts[0] for t, y in zip(texts, labels, strict=True)]
    assert list(together.attempts) == one_by_one
    assert together.skipped + together.failed + together.succeeded == len(texts)


@given(st.lists(st.sampled_from(["great", "nice", "film", "the", "fine"]), min_size=1, max_size=4))
def test_with_one_weight_a_word_greedy_search_finds_what_all_replacements_find(words):
    model, text = Weighted(), " ".join(words)
    (attempt,) = attack(model, [text], [1], source=SOURCE).attempts
    if attempt.outcome == "skipped":
        return
    every = [" ".join(one) for one in product(*[(w, *SOURCE.candidates(w)) for w in words])]
    fooled = [one for one in every if Weighted().logits([one])[0].argmax() != 1]
    assert (attempt.outcome == "succeeded") == bool(fooled)
    if fooled:
        changes = [sum(a != b for a, b in zip(one.split(), words, strict=True)) for one in fooled]
        assert len(attempt.replaced) == min(changes)


def test_what_cannot_be_attacked_is_refused():
    with pytest.raises(ValueError, match="no labelled texts"):
        attack(Weighted(), [], [])
    with pytest.raises(ValueError, match=r"candidates=0, max_share=1.0: expected at least 1"):
        attack(Weighted(), ["a"], [0], candidates=0)
    with pytest.raises(ValueError, match=r"max_share=0: .* a share in \(0, 1\]"):
        attack(Weighted(), ["a"], [0], max_share=0)
    with pytest.raises(ValueError, match="an attack edits one text of a pair"):
        attack(Weighted(), ["a"], [0], pairs=["b"], edit="both")
    with pytest.raises(ValueError, match="label 5 among 2 classes"):
        attack(Weighted(), ["a"], [5])


def test_the_bundled_synonyms_keep_part_of_speech_and_form():
    source = Synonyms()
    assert source.candidates("movies") == ("films", "pictures")
    assert source.candidates("loved") == ("adored", "cherished")
    assert source.candidates("wrote") == source.candidates("written") == ("composed", "penned")
    assert "wrote" not in source.candidates("composed")  # which may be "written" as well
    assert source.candidates("unheard-of") == ()


def test_the_bundled_synonyms_are_several_hundred_groups_and_small():
    path = Synonyms().path
    file = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 150_000
    base = [line for form in ("noun", "verb", "adjective", "adverb") for line in file["groups"][form]]
    assert len(base) > 700 and len(set(base)) == len(base)
    for lines in file["groups"].values():
        for line in lines:
            words = line.split()
            assert len(words) > 1 and len(set(words)) == len(words)
            assert all(WORD.fullmatch(word) and word not in STOP_WORDS for word in words)


def test_synonyms_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"name": "mine", "date": "today", "groups": {"noun": ["film movie"], "verb": ["film shoot"]}}')
    source = Synonyms(file)
    assert source.name == "mine, today"
    assert source.candidates("movie") == ("film",)
    assert source.candidates("film") == ()  # neither is a noun and a verb
    (tmp_path / "bad.json").write_text('["film"]')
    with pytest.raises(ValueError, match=r'bad.json is no list of synonyms: expected JSON {"name", "date", "groups"'):
        Synonyms(tmp_path / "bad.json").candidates("film")


@given(st.text("abcdefghijklmnopqrstuvwxyz", max_size=12))
def test_character_edits_keep_the_ends_and_change_little(word):
    found = CharacterEdits().candidates(word)
    assert bool(found) == (len(word) >= 4) and len(found) <= 4 * len(word)
    for one in found:
        assert (one[0], one[-1]) == (word[0], word[-1]) and abs(len(one) - len(word)) <= 1


def test_character_edits_fool_what_counts_words_and_stand_in_for_synonyms():
    found = attack(Weighted(), ["a great film"], [1], source=CharacterEdits())
    assert (found.source, found.succeeded) == ("character edits", 1)
    both = FirstOf((SOURCE, CharacterEdits()))
    assert both.name == "listed, else character edits"
    assert both.candidates("great") == ("big", "nice")
    assert both.candidates("terse") == CharacterEdits().candidates("terse")
    assert both.candidates("ox") == ()


def test_textattack_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "textattack", None)
    with pytest.raises(ImportError, match=r"textattack's recipes need it installed; type: pip install textattack$"):
        textattack_model(Weighted())


def test_a_model_for_textattack(monkeypatch):
    wrappers = ModuleType("textattack.models.wrappers")
    wrappers.ModelWrapper = type("ModelWrapper", (), {})
    for name, module in (("textattack", ModuleType("textattack")), ("textattack.models", ModuleType("models"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "textattack.models.wrappers", wrappers)
    predictor = Weighted()
    model = textattack_model(predictor)
    assert isinstance(model, wrappers.ModelWrapper) and model.model is predictor
    told = model(["nice", "bad"])
    assert told == pytest.approx(softmax(Weighted().logits(["nice", "bad"])))
    assert abs(told.sum(-1) - 1).max() < 1e-12
    assert model([("nice", "film"), ("bad", "film")]) == pytest.approx(told) and predictor.pairs == ["film", "film"]
