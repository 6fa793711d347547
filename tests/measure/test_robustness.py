from dataclasses import asdict, dataclass
from json import dumps

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure.disturb import SUITE, Case, Disturbance, Negation, Truncation, Typos
from gossamer.measure.robustness import robustness


class Keywords:
    """Class 1 for a text (or pair) that has "good" in it, exactly so spelt; keeps what it was asked."""

    def __init__(self, blind=False):
        self.blind, self.asked = blind, []

    def logits(self, texts, pairs=None, batch_size=32):
        self.asked.append((list(texts), None if pairs is None else list(pairs)))
        whole = [f"{text} {pair}" for text, pair in zip(texts, pairs or [""] * len(texts), strict=True)]
        if self.blind:
            whole = [one.lower() for one in whole]
        hits = np.array([float("good" in one.split()) for one in whole])
        return np.stack([0.5 - hits, hits - 0.5], -1)


TEXTS, LABELS = ["a good film", "a bad film", "good", "so so"], [1, 0, 1, 0]


def test_golden_values():
    found = robustness(Keywords(), TEXTS, LABELS, baseline=Keywords(), disturbances=[Case(kind="upper")])
    (row,) = found.disturbances
    assert (found.clean_compressed, found.clean_baseline, found.examples) == (1.0, 1.0, 4)
    assert asdict(row.compressed) == {"accuracy": 0.5, "drop": 0.5, "flip_rate": 0.5}
    assert (row.changed, row.relative, row.reason) == (1.0, 1.0, None)


def test_a_side_that_loses_less_and_one_that_loses_nothing():
    upper, half = Case(kind="upper"), Case(rate=0.5, kind="upper")
    found = robustness(Keywords(blind=True), TEXTS, LABELS, baseline=Keywords(), disturbances=[upper])
    assert (found.disturbances[0].compressed.drop, found.disturbances[0].relative) == (0.0, 0.0)
    other = robustness(Keywords(), TEXTS, LABELS, baseline=Keywords(blind=True), disturbances=[upper, half])
    assert other.disturbances[0].relative is None
    assert "the baseline loses nothing (its drop is 0)" in other.disturbances[0].reason
    alone = robustness(Keywords(), TEXTS, LABELS, disturbances=[upper]).disturbances[0]
    assert (alone.baseline, alone.relative, alone.reason) == (None, None, "no baseline was given")


def test_flips_count_right_and_wrong_answers_alike():
    found = robustness(Keywords(), TEXTS, [0, 0, 1, 0], disturbances=[Case(kind="upper")])
    (row,) = found.disturbances
    assert (found.clean_compressed, row.compressed.accuracy, row.compressed.drop) == (0.75, 0.75, 0.0)
    assert row.compressed.flip_rate == 0.5


def test_what_should_change_the_answer_has_no_accuracy():
    (row,) = robustness(Keywords(), TEXTS, LABELS, baseline=Keywords(), disturbances=[Negation()]).disturbances
    assert not row.preserving and row.changed == 1.0
    assert asdict(row.compressed) == asdict(row.baseline) == {"accuracy": None, "drop": None, "flip_rate": 0.0}
    assert row.relative is None and "compare the flip rates" in row.reason


def test_every_side_is_asked_about_the_same_texts():
    one, other = Keywords(), Keywords()
    robustness(one, TEXTS, LABELS, baseline=other, seed=5)
    assert one.asked == other.asked and len(one.asked) == 1 + len(SUITE)


@pytest.mark.parametrize(("edit", "first", "second"), [(None, 0, 1), ("second", 0, 1), ("first", 1, 0), ("both", 1, 1)])
def test_of_pairs_the_second_is_edited_unless_told_otherwise(edit, first, second):
    model = Keywords()
    upper = [Case(kind="upper")]
    found = robustness(model, ["a", "b"], [0, 0], pairs=["c", "d"], disturbances=upper, edit=edit)
    assert model.asked[1] == ([["a", "b"], ["A", "B"]][first], [["c", "d"], ["C", "D"]][second])
    assert found.edited == (edit or "second") and found.disturbances[0].changed == 1.0


def test_only_texts_that_changed_are_called_changed():
    (row,) = robustness(Keywords(), TEXTS, LABELS, disturbances=[Truncation()]).disturbances
    assert row.changed == 0.75  # one text is a single word


@dataclass(frozen=True)
class Praise(Disturbance):
    def edit(self, text, draw):
        return f"{text} good"


def test_a_disturbance_may_be_ones_own():
    (row,) = robustness(Keywords(), TEXTS, LABELS, disturbances=[Praise()]).disturbances
    assert (row.name, row.compressed.accuracy, row.compressed.flip_rate) == ("praise", 0.5, 0.5)


@given(st.lists(st.text("good bad.", max_size=12), min_size=1, max_size=6), st.integers(0, 9), st.data())
def test_figures_hold_together_and_batches_do_not_matter(texts, seed, data):
    labels = data.draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts)))
    found = robustness(Keywords(), texts, labels, baseline=Keywords(), seed=seed)
    assert found == robustness(Keywords(), texts, labels, baseline=Keywords(), seed=seed, batch_size=1)
    for row in found.disturbances:
        assert row.compressed == row.baseline and row.compressed.flip_rate <= row.changed + 1e-12
        if row.preserving:
            drop = found.clean_compressed - row.compressed.accuracy
            assert row.compressed.drop == pytest.approx(drop, abs=1e-12)
            assert abs(drop) <= row.compressed.flip_rate + 1e-12


def test_it_can_be_written_as_json():
    assert dumps(asdict(robustness(Keywords(), TEXTS, LABELS, baseline=Keywords())))


def test_what_cannot_be_measured_is_refused():
    class Broken(Keywords):
        def logits(self, texts, pairs=None, batch_size=32):
            return super().logits(texts, pairs) * np.nan

    class Number(Keywords):
        def logits(self, texts, pairs=None, batch_size=32):
            return super().logits(texts, pairs)[:, :1]

    with pytest.raises(ValueError, match="no labelled texts to disturb"):
        robustness(Keywords(), [], [])
    with pytest.raises(ValueError, match="1 labels for 2 texts"):
        robustness(Keywords(), ["a", "b"], [0])
    with pytest.raises(ValueError, match="2 labels and 1 second texts for 2 texts"):
        robustness(Keywords(), ["a", "b"], [0, 1], pairs=["c"])
    with pytest.raises(ValueError, match="no disturbance to measure under"):
        robustness(Keywords(), ["a"], [0], disturbances=[])
    with pytest.raises(ValueError, match="edit='second' but there are no pairs"):
        robustness(Keywords(), ["a"], [0], edit="second")
    with pytest.raises(ValueError, match="edit='third': expected 'first', 'second' or 'both'"):
        robustness(Keywords(), ["a"], [0], edit="third")
    with pytest.raises(ValueError, match="answers of the baseline are not numbers"):
        robustness(Keywords(), ["a"], [0], baseline=Broken(), disturbances=[Typos()])
    with pytest.raises(ValueError, match=r"answers of the compressed have shape \(1, 1\) for 1 texts"):
        robustness(Number(), ["a"], [0])
    with pytest.raises(ValueError, match="label 2 among 2 classes"):
        robustness(Keywords(), ["a"], [2])
