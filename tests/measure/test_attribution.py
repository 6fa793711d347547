"""Reasons: input times gradient, and how far two models agree on it."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import nn

from gossamer.forms import Rounded, attach, settle
from gossamer.measure.attribution import attributions, ranked, reasons
from tests import small


def test_attributions_sum_to_what_a_small_step_does() -> None:
    """Sum over tokens of input times gradient = derivative of the logit along a common scaling of the embeddings."""
    model, batch = small.model().double(), small.batch()
    classes = torch.zeros(len(batch["input_ids"]), dtype=torch.long)
    found = attributions(model, batch, classes)
    table, step = model.get_input_embeddings(), 1e-6

    def scaled(by: float) -> torch.Tensor:
        hook = table.register_forward_hook(lambda m, a, out: out * by)
        with torch.no_grad():
            logits = model(**batch).logits[:, 0]
        hook.remove()
        return logits

    expected = (scaled(1 + step) - scaled(1 - step)) / (2 * step)
    assert torch.allclose(found.sum(1), expected, atol=1e-5)
    assert not found[batch["attention_mask"] == 0].any()
    assert not table._forward_hooks and all(p.grad is None for p in model.parameters())


def test_a_model_agrees_with_itself_and_little_with_another() -> None:
    model, batch = small.model(), small.batch()
    same = reasons(model, deepcopy(model), [batch])
    assert (same.correlation, same.overlap) == (pytest.approx(1), 1) and same.texts + same.left_out == len(
        batch["input_ids"]
    )
    other = small.model(seed=7)
    assert reasons(model, other, [batch]).correlation < 0.9


def test_integer_layers_let_gradients_through() -> None:
    model, batch = small.model(), small.batch()
    rounded = deepcopy(model)
    for module in [m for m in rounded.modules() if type(m) is nn.Linear]:
        attach(module, Rounded(8))
    settle(rounded)
    assert reasons(model, rounded, [batch]).correlation > 0.9


def test_special_tokens_and_short_texts_are_left_out() -> None:
    model, batch = small.model(), small.batch()
    every = sorted(set(batch["input_ids"].flatten().tolist()))
    with pytest.raises(ValueError, match=r"none of .* texts has three tokens to compare; give longer texts"):
        reasons(model, model, [batch], special=every)
    with pytest.raises(ValueError, match="top=0: expected at least 1"):
        reasons(model, model, [batch], top=0)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_ranks_are_scipy_s(values: list[int]) -> None:
    assert np.allclose(ranked(values), rankdata(values))
