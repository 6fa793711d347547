"""Texts laid end to end: nothing is lost, nothing overlaps, and the answers are those of each text alone."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.engines import export, load
from gossamer.engines.course import closer
from gossamer.engines.packing import TOKENS, _grids, bins, fill, layouts, price, together, worth
from gossamer.engines.texts import Facts
from gossamer.task import Classification, Read

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60)
KNOWN = Facts(Classification(("a", "b")), 512, 7, True)


@given(LENGTHS, st.integers(1, 256))
def test_every_text_is_in_one_bin_and_no_bin_overflows(lengths, width):
    made = bins(lengths, width)
    assert sorted(i for row in made for i in row) == list(range(len(lengths)))
    for row in made:
        assert sum(lengths[i] for i in row) <= width or len(row) == 1
    total = sum(min(length, width) for length in lengths)
    assert len(made) <= 2 * -(-total // width) + 1, "two bins that are half empty would have been one"


@settings(deadline=None)
@given(LENGTHS)
def test_a_grid_holds_each_text_whole(lengths):
    chance = np.random.default_rng(0)
    reads = [Read(chance.integers(10, 99, n).tolist(), [i % 2] * n, False) for i, n in enumerate(lengths)]
    seen = []
    for layout in layouts(lengths):
        batch = fill(layout, reads, KNOWN)
        assert batch["input_ids"].size <= max(TOKENS, *lengths)
        for at, (i, y, x) in enumerate(zip(layout.texts, layout.rows, layout.columns, strict=True)):
            end = x + lengths[i]
            assert batch["input_ids"][y, x:end].tolist() == reads[i].ids
            assert batch["token_type_ids"][y, x:end].tolist() == reads[i].types
            assert batch["position_ids"][y, x:end].tolist() == list(range(lengths[i]))
            assert batch["firsts"][at] == y * batch["input_ids"].shape[1] + x
            [number] = set(batch["segments"][y, x:end].tolist())
            assert number > 0 and (batch["segments"][y] == number).sum() == lengths[i], "nobody else has it"
            seen.append(i)
        assert (batch["input_ids"][batch["segments"] == 0] == 7).all()
        for i, ids in zip(layout.texts, layout.each(batch["input_ids"]), strict=True):
            assert ids.tolist() == [reads[i].ids]
    assert sorted(seen) == list(range(len(lengths)))


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 2**32 - 1))
def test_what_is_left_moves_closer_and_nothing_is_lost(lengths, seed):
    chance = np.random.default_rng(seed)
    layout = together(lengths)
    going = chance.random(len(lengths)) < 0.6
    going[chance.integers(len(lengths))] = True
    left = (chance.random(len(layout.within)) < 0.5) | (layout.within == 0)
    left &= going[layout.owners]
    name = 1 + 1000 * layout.texts[layout.owners] + layout.within  # says whose token it is, and which; 0: nobody's
    new, states, chosen, stood = closer(layout, layout.spread(name, 0), left, going)
    assert sorted(new.collect(states)) == sorted(name[left]) and states.shape == new.shape
    assert (name[stood] == new.collect(states)).all()
    assert (new.texts == layout.texts[chosen]).all() and sorted(chosen) == np.flatnonzero(going).tolist()
    for i, mine in zip(new.texts, new.each(states), strict=True):
        assert (mine // 1000 == i).all() and (np.diff(mine) > 0).all() and mine[0, 0] == 1 + 1000 * i
    assert new.shape[0] * new.shape[1] <= max(layout.shape[0] * layout.shape[1], 2 * left.sum() + 128)


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=7), st.integers(1, 300), st.integers(0, 200))
def test_no_other_grids_of_the_same_rows_cost_less(fills, tokens, call):
    rows = [(size, None) for size in sorted(fills, reverse=True)]
    cost, cuts = _grids(rows, tokens, call)
    assert [0, *(end for _, end in cuts)] == [*(first for first, _ in cuts), len(rows)], "each row once, in order"
    ways = []
    for cut in product([False, True], repeat=len(rows) - 1):
        places = [0, *(i + 1 for i, here in enumerate(cut) if here), len(rows)]
        grids = [(b - a, rows[a][0]) for a, b in pairwise(places)]
        if all(n == 1 or n * width <= tokens for n, width in grids):
            ways.append(sum(price(*grid) + call for grid in grids))
    assert cost > 0.999 * min(ways)
    if len(rows) * rows[0][0] <= tokens:
        assert cost == pytest.approx(min(ways)), "exact where no grid is too large"


def test_rows_are_as_wide_as_suits_the_texts():
    mixed = [16] * 60 + [120] * 4
    assert sorted(one.shape for one in layouts(mixed)) == [(4, 128), (30, 32)], "long texts stretch nobody else's rows"
    assert [one.shape for one in layouts(mixed, call=10**6)] == [together(mixed).shape], "a call would cost too much"
    assert {one.shape for one in layouts([30] * 64)} == {(64, 32)}, "wide rows would cost more, and save nothing"
    assert {one.shape for one in layouts([21] * 60)} == {(20, 64)}, "narrow ones leave room unused"
    assert [one.shape for one in layouts([19])] == [(1, 19)] and together([19]).shape == (1, 19)
    chance = np.random.default_rng(0)
    shapes = {one.shape for _ in range(50) for one in layouts(chance.lognormal(3, 0.6, 1024).astype(int).tolist())}
    assert len(shapes) < 100 and all(width % 32 == 0 for _, width in shapes), "an engine prepares itself for each"
    assert [one.shape for one in layouts([65] * 8)] == [(8, 72)], "but not at any price"
    assert list(layouts([])) == []


def test_short_texts_fill_the_rows_of_long_ones():
    assert together([300] * 2 + [20] * 60).shape[0] <= 6
    assert sum(one.shape[0] for one in layouts([400, 300, 200] + [5] * 30, call=10**6)) <= 3


def test_packing_is_for_uneven_texts():
    assert worth([100, 5, 5, 5, 5, 5, 5, 5], 8)
    assert not worth([20] * 32, 32), "nothing is padding"
    assert not worth([50], 1)
    even = np.random.default_rng(0).lognormal(3, 0.5, 1024).astype(int) + 2
    assert not worth(even.tolist(), 32), "sorted by length, so many texts hardly need it"
    assert worth(even[:32].tolist(), 32)


def test_positions_of_roberta_begin_after_its_padding():
    known = Facts(Classification(("a", "b")), 512, 1, False, first_position=2)
    [layout] = layouts([2, 1])
    batch = fill(layout, [Read([5, 6], [0, 0], False), Read([7], [0], False)], known)
    assert batch["position_ids"].tolist() == [[2, 3, 2]] and "token_type_ids" not in batch


@pytest.fixture(scope="module")
def uneven():
    words = [f"w{i}" for i in range(26)]
    chance = np.random.default_rng(1)
    return [" ".join(chance.choice(words, n)) for n in (50, 1, 2, 3, 1, 4, 2, 8, 1, 1, 2, 3, 30, 2, 1, 5)]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_packed_answers_are_those_of_each_text_alone(artefact, uneven, engine, monkeypatch):
    assert [file.name for file in artefact.written.packed] == ["packed.onnx"]
    predictor = load(artefact.folder, engine=engine)
    given, real = [], predictor.pack
    monkeypatch.setattr(predictor, "pack", lambda reads: given.append(len(reads)) or real(reads))
    together = predictor.logits(uneven)
    assert given == [len(uneven)], "the packed graph answered"
    alone = np.concatenate([predictor.logits([text]) for text in uneven])
    assert np.allclose(together, alone, atol=artefact.written.tolerance)
    pairs = list(reversed(uneven))
    alone = np.concatenate([predictor.logits([a], [b]) for a, b in zip(uneven, pairs, strict=True)])
    assert np.allclose(predictor.logits(uneven, pairs), alone, atol=artefact.written.tolerance)


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "albert"])
def test_families_that_can_be_told_their_positions(family, tmp_path, save, tokenizer, uneven):
    import tiny
    import torch

    torch.manual_seed(0)
    layers = {"n_layers": 2} if family == "distilbert" else {"num_hidden_layers": 2}
    model = tiny.build(family, "classes", **layers)
    folder = save(model, tmp_path / family)
    written = export.write(model, tokenizer, folder)
    assert written.packed
    predictor = load(folder, engine="onnxruntime")
    alone = np.concatenate([predictor.logits([text]) for text in uneven])
    assert np.allclose(predictor.logits(uneven), alone, atol=written.tolerance)


def test_a_model_that_cannot_be_told_keeps_its_plain_graph(tmp_path, save, tokenizer, caplog):
    import tiny

    model = tiny.build("mpnet", "classes", num_hidden_layers=1)
    written = export.write(model, tokenizer, save(model, tmp_path / "mpnet"))
    assert written.packed == () and written.file.is_file()
    assert "no graph for packed texts: mpnet cannot be told the positions of tokens" in caplog.text
