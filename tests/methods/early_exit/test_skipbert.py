"""Three tokens at a time: the table is the lower layers, texts do not meet, and what is not known is backed off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import artefact, recipe
from gossamer.measure.layers import watching
from gossamer.measure.size import tensor_bytes
from gossamer.methods.early_exit.skipbert import able, install
from gossamer.runtime.trigrams import Trigrams, chosen, end_to_end, index, trigrams_of
from gossamer.train import drive
from tests import small, tiny

METHOD = recipe.methods()["SkipBERT"]


@pytest.fixture
def job(tmp_path: Path) -> Any:
    return small.job(tmp_path)


@pytest.fixture
def lower(job: Any) -> Trigrams:
    table = install(job, 2)
    job.model.eval()
    return table


def every(job: Any, table: Trigrams) -> torch.Tensor:
    texts = [e["input_ids"] for e in job.train]
    return torch.from_numpy(chosen(texts, table.padding, 10**6, 100))


def states(table: Trigrams, *texts: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return table(torch.tensor(texts))


def test_the_table_is_the_lower_layers(job: Any, lower: Trigrams) -> None:
    """To the rounding of eight bits, where all trigrams are in it; and bit by bit for what is computed beside it."""
    given = small.batch(job.train[:8])
    computed = lower(given["input_ids"])
    lower.fill(every(job, lower))
    looked = lower(given["input_ids"])
    there = given["attention_mask"].bool()
    off = (looked - computed)[there].norm() / computed[there].norm()
    assert 0 < off < 0.01
    lower.settle()
    assert torch.equal(lower(given["input_ids"])[there], looked[there]), "nothing was missing"
    assert not list(lower.parameters()), "the lower layers are gone"


def test_what_is_missing_is_computed_and_nothing_else(job: Any, lower: Trigrams, monkeypatch: Any) -> None:
    ids = torch.tensor([job.train[0]["input_ids"]])
    wanted = lower(ids)
    known = lower.trigrams(ids)[0]
    lower.fill(known[:-2].unique(dim=0))
    seen: list[int] = []
    compute = lower.compute
    monkeypatch.setattr(lower, "compute", lambda some: seen.append(len(some)) or compute(some))
    assert torch.allclose(lower(ids), wanted, atol=0.05)
    assert seen and seen[0] <= 2


def test_a_state_depends_on_two_neighbours_to_each_side_only(lower: Trigrams) -> None:
    text = [2, 11, 12, 13, 14, 15, 16, 17, 18, 3]
    other = [2, 18, 12, 13, 14, 15, 16, 11, 17, 3]
    one, two = states(lower, text, other)
    assert torch.allclose(one[4], two[4], atol=1e-6), "from the third to the seventh token nothing has changed"
    assert not torch.allclose(one[2], two[2], atol=1e-3)


def test_what_stands_in_the_table_does_not_learn(job: Any, lower: Trigrams) -> None:
    """Nor is what is computed beside it dropped by chance."""
    ids = torch.tensor([job.train[0]["input_ids"]])
    lower.fill(lower.trigrams(ids)[0][:-3].unique(dim=0))
    lower.train()
    found = lower(ids)
    assert torch.equal(found, lower(ids)) and not found.requires_grad


def test_texts_do_not_meet(lower: Trigrams) -> None:
    """Alone, beside a longer one, and laid end to end in one row."""
    a, b = [2, 11, 12, 3], [2, 14, 15, 16, 17, 3]
    alone = states(lower, a)[0]
    batched = states(lower, a + [lower.padding] * 2, b)[0, :4]
    with end_to_end(torch.tensor([[1] * 6 + [2] * 4 + [0]])):
        row = states(lower, b + a + [lower.padding])[0, 6:10]
    assert torch.allclose(alone, batched, atol=1e-6) and torch.allclose(alone, row, atol=1e-6)


def test_what_is_unknown_is_a_pair_then_a_word_then_nothing(lower: Trigrams) -> None:
    none = lower.padding
    kept = torch.tensor([[11, 12, 13], [none, 21, 22], [none, 31, none]])
    lower.fill(kept)
    lower.settle()

    def entry(*words: int) -> int:
        return int(lower.known(torch.tensor([words])))

    assert [entry(11, 12, 13), entry(40, 21, 22), entry(40, 31, 41), entry(40, 41, 42)] == [0, 1, 2, 3]
    assert float(lower.stored(torch.tensor([3])).abs().max()) == 0


@settings(deadline=None, max_examples=25)
@given(st.sets(st.tuples(*[st.integers(0, 2**19 - 1)] * 3), min_size=1, max_size=300))
def test_every_entry_is_found_and_nothing_else(some: set[tuple[int, int, int]]) -> None:
    rows = np.array(sorted(some))
    slots, factors, keys, where = index(rows)
    table = Trigrams(8, 4, 0, 0, "", len(rows), slots, factors)
    table.keys.copy_(torch.from_numpy(keys))
    table.where.copy_(torch.from_numpy(where)[:, None])
    assert table.find(torch.from_numpy(rows)).tolist() == list(range(len(rows)))
    others = [row for row in (rows + 1) % 2**19 if tuple(row) not in some]
    if others:
        assert set(table.find(torch.from_numpy(np.array(others))).tolist()) == {len(rows)}


def test_words_that_the_hash_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found a word of number 524288, expected less than 524288"):
        index(np.array([[0, 2**19, 0]]))


def test_the_table_holds_all_words_first_and_no_more_than_it_may() -> None:
    texts = [[2, 5, 6, 7, 3], [2, 5, 6, 8, 3], [2, 5, 6, 9, 3]]
    found = chosen(texts, 0, 10, 12)
    assert len(found) == 10 and len({tuple(row) for row in found}) == 10
    assert {tuple(row) for row in found[:7]} == {(0, word, 0) for word in (2, 3, 5, 6, 7, 8, 9)}
    assert (2, 5, 6) in {tuple(row) for row in found[7:]}, "seen three times"
    assert len(chosen(texts, 0, 3, 12)) == 3
    known = {tuple(row) for row in chosen(texts, 0, 100, 12)}
    assert {(0, word, 0) for word in range(1, 12)} <= known, "room for words that were never seen"
    assert {(2, 5, 6), (5, 6, 7), (6, 7, 3), (0, 2, 5)} <= known


def test_only_upper_layers_run_and_the_table_counts(job: Any, tmp_path: Path) -> None:
    small.after(job, "SkipBERT")
    with watching(job.model) as seen:
        said = small.logits(job.model)
    assert len(seen) == 2 and said.isfinite().all()
    table = trigrams_of(job.model)
    assert table is not None and table.layers == 0 and table.entries > 50
    assert tensor_bytes(job.model) > table.entries * 3 * 32
    folder = artefact.save(job.model, tmp_path / "made", probe=small.batch(), verify=False)
    assert sum(f.stat().st_size for f in folder.iterdir()) > table.entries * 3 * 32


def test_layers_that_compute_go_with_the_artefact(job: Any, tmp_path: Path) -> None:
    drive(job, METHOD(entries=50, misses="compute"))
    table = trigrams_of(job.model)
    assert table is not None and table.layers == 2
    folder = artefact.save(job.model, tmp_path / "made", probe=small.batch(), verify=False)
    again = artefact.load(folder)
    assert torch.allclose(small.logits(again), small.logits(job.model), atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert"])
def test_other_families_skip_too(family: str, tmp_path: Path) -> None:
    job = small.job(tmp_path)
    job.model = tiny.build(family, "classes")
    ids = torch.tensor([[2, 11, 12, 13, 3]])
    job.train = [{"index": i, "input_ids": ids[0].tolist(), "labels": 0} for i in range(4)]
    layers = job.model.config.num_hidden_layers
    try:
        able(job.model, 1)
    except ValueError as refused:  # a narrow table
        assert family == "electra" and "as wide as the layers" in str(refused)
        return
    table = install(job, 1)
    assert job.model.config.num_hidden_layers == layers - 1
    table.fill(table.trigrams(ids)[0])
    table.settle()
    with torch.no_grad():
        assert job.model(ids).logits.isfinite().all()


def test_who_cannot_is_told(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    with pytest.raises(ValueError, match=r"found 4 layers and 4 to skip, expected some of both kinds; type SkipBERT"):
        drive(job, METHOD(shallow=4))
