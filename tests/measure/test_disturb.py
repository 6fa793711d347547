import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure.disturb import (
    NEUTRAL,
    SUITE,
    TEMPLATES,
    Appended,
    Case,
    Disturbance,
    Homoglyphs,
    Negation,
    Punctuation,
    Truncation,
    Typos,
    Whitespace,
    WordDrop,
    WordSwap,
    disturbed,
    neighbours,
)

TEXT = "The film isn't bad, but (mostly) it bores you: 3.5 of 5."
VARIANTS = [*SUITE, *(Typos(kind=kind) for kind in ("neighbour", "swap", "drop", "double"))]
texts = st.one_of(st.text(max_size=60), st.text("abc XYZ.,'!?\t\n", max_size=60))
disturbances = st.builds(lambda one, rate: replace(one, rate=rate), st.sampled_from(VARIANTS), st.floats(0, 1))


@given(disturbances, texts, st.integers(0, 2**40))
def test_the_same_seed_and_text_give_the_same_and_nothing_becomes_empty(one, text, seed):
    found = one(text, seed)
    assert found == one(text, seed)
    assert found.strip() if text.strip() else found == text


@given(disturbances, st.lists(texts, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_the_texts_does_not_matter(one, some, random):
    order = list(range(len(some)))
    random.shuffle(order)
    straight = disturbed(some, one, 7)
    assert disturbed([some[i] for i in order], one, 7) == [straight[i] for i in order]


@given(st.sampled_from(VARIANTS), texts)
def test_a_rate_of_nothing_changes_nothing(one, text):
    assert replace(one, rate=0)(text) == text


def test_another_process_gives_the_same():
    code = f"from gossamer.measure.disturb import SUITE; print(ascii([one({TEXT!r}, 3) for one in SUITE]))"
    salted = os.environ | {"PYTHONHASHSEED": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=salted
    ).stdout
    assert printed.strip() == ascii([one(TEXT, 3) for one in SUITE])


def test_what_a_seed_gives_is_for_good():
    golden = {
        Typos(0.2): "The fiml isn't bad, but (moslty) it boes yp: 3.5 of 5.",
        Case(): "The FiLm ISN'T BaD, but (MosTLY) It borES You: 3.5 Of 5.",
        WordDrop(0.3): "The film isn't bad, (mostly) it bores you: 3.5 of 5.",
        WordSwap(0.5): "The isn't film bad, (mostly) but bores it 3.5 you: 5. of",
    }
    assert {one: one(TEXT) for one in golden} == golden


def test_other_seeds_and_texts_draw_anew():
    one = Case(kind="random")
    assert len({one(TEXT, seed) for seed in range(20)}) == 20
    assert one("aaaaaaaaaa bbbbbbbbbb").split()[0] != one("aaaaaaaaaa cccccccccc").split()[0]


@pytest.mark.parametrize("one", [Typos(), Homoglyphs(), Case(), Whitespace(), WordDrop(), Appended(), Negation()])
def test_a_rate_is_the_share_on_average(one):
    words = [f"word{i} and others too" for i in range(300)]
    none, some, all_ = (sum(replace(one, rate=r)(w) != w for w in words) for r in (0, 0.02, 1))
    assert none == 0 < some < all_ and all_ >= 290


def test_a_higher_rate_acts_where_a_lower_one_does():
    few, many = (Homoglyphs(rate)("a nice place to be") for rate in (0.2, 0.6))
    at = [{i for i, (a, b) in enumerate(zip("a nice place to be", x, strict=True)) if a != b} for x in (few, many)]
    assert at[0] < at[1]
    kept = [WordDrop(rate)(TEXT).split() for rate in (0.2, 0.6)]
    assert set(kept[1]) < set(kept[0]) < set(TEXT.split())


def test_neighbours_are_the_keys_around():
    assert {key: "".join(sorted(neighbours(key))) for key in "gqmp"} == {
        "g": "bfhtvy",
        "q": "aw",
        "m": "jkn",
        "p": "lo",
    }
    assert sorted(neighbours("G")) == sorted("BFHTVY")
    assert [neighbours(key) for key in ("\u00e9", "1", "", "\u0130")] == ["", "", "", ""]
    for key in "qwertyuiopasdfghjklzxcvbnm":
        assert all(key in neighbours(other) for other in neighbours(key))


@given(st.text("abcdefgh ", max_size=40), st.integers(0, 100))
def test_each_typo_does_what_it_says(text, seed):
    words = text.split()

    def kind(name, rate=1.0):
        return Typos(rate, kind=name)(text, seed).split()

    assert [len(w) for w in kind("double")] == [len(w) * (1 + (len(w) > 1)) for w in words]
    assert [sorted(w) for w in kind("swap", 0.3)] == [sorted(w) for w in words]
    assert all(
        a == b if len(b) < 2 else all(x in neighbours(y) for x, y in zip(a, b, strict=True))
        for a, b in zip(kind("neighbour"), words, strict=True)
    )
    assert [len(w) > 0 for w in kind("drop", 0.5)] == [True] * len(words)


def test_case():
    assert Case(kind="upper")("Ab cd") == "AB CD"
    assert Case(kind="lower")("Ab CD") == "ab cd"
    assert Case(kind="title")("it isn't SO") == "It Isn't So"
    assert Case(kind="random")(TEXT).lower() == TEXT.lower()


def test_punctuation_spares_words_and_numbers():
    assert Punctuation(kind="removed")(TEXT) == "The film isn't bad but mostly it bores you 3.5 of 5"
    assert Punctuation(kind="doubled")(TEXT) == "The film isn't bad,, but ((mostly)) it bores you:: 3.5 of 5.."
    added = Punctuation(kind="added")("one two,")
    assert added[:3] == "one" and added[3] in ",.;!" and added[4:] == " two,"
    assert Punctuation(kind="removed")("...") == "..."  # nothing would be left


def test_words_are_dropped_and_swapped_whole():
    assert len(WordDrop(1.0)("one two three").split()) == 1
    assert WordSwap(1.0)("one  two\tthree four five") == "two  one\tfour three five"
    assert WordDrop(1.0)("one") == WordSwap(1.0)("one") == "one"


def test_homoglyphs_are_other_letters_of_the_same_look():
    text = "aceijopsxyABCEHIJKMOPSTNvXYZ"
    found = Homoglyphs(1.0)(text)
    assert len(found) == len(text) and not set(found) & set(text) and not found.isascii()
    assert Homoglyphs(1.0)("d q 1") == "d q 1"


def test_homoglyphs_are_cyrillic_or_greek_of_the_same_case():
    import unicodedata

    for letter in "aceijopsxyABCEHIJKMOPSTNvXYZ":
        name = unicodedata.name(Homoglyphs(1.0)(letter))
        assert name.split()[0] in ("CYRILLIC", "GREEK")
        assert ("SMALL" in name) == letter.islower()


def test_whitespace_between_words_only():
    assert Whitespace(1.0, kind="joined")(" a b  c ") == " abc "
    assert Whitespace(1.0)("a b c").split() == ["a", "b", "c"]


def test_negation_denies():
    found = Negation()("The film is good.")
    assert found in [template.format("the film is good.") for template in TEMPLATES]
    assert Negation()("Rome burns").endswith("Rome burns")
    assert [one.name for one in SUITE if not one.preserving] == ["negation"]


def test_length():
    assert Truncation()("one two three four five") == "one two three"
    assert Truncation(1.0)("one two") == "one"
    assert Truncation()("one") == "one"
    assert Appended()("Fine. ") in [f"Fine. {sentence}" for sentence in NEUTRAL]


def test_the_suite_is_named_frozen_and_of_plain_values():
    assert len({one.name for one in SUITE}) == len(SUITE)
    assert asdict(Case(kind="upper")) == {"rate": 1.0, "kind": "upper"}
    assert (Case(kind="upper").name, WordDrop().name) == ("case: upper", "word drop")
    with pytest.raises(FrozenInstanceError):
        Typos().rate = 1.0
    assert all(isinstance(one, Disturbance) for one in SUITE)


def test_what_is_no_disturbance_is_refused():
    with pytest.raises(ValueError, match=r"Typos\(rate=1.5\): expected a share from 0 to 1"):
        Typos(1.5)
    with pytest.raises(ValueError, match=r"Case\(kind='CAPS'\): expected one of upper, lower, title, random"):
        Case(kind="CAPS")
    with pytest.raises(ValueError, match=r"rate=nan"):
        WordDrop(float("nan"))
