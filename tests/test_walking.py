"""Which families let their layer loop be owned, and what is said where not."""

from typing import Any

import pytest
import torch

from gossamer.runtime.walks import Shared, Stack, TokenThreshold
from gossamer.walking import BOUND, BY_EXAMPLE, depth, features, walk
from tests import tiny

OWNED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "deberta-v2", "gpt2", "llama", "mistral")


@pytest.mark.parametrize("family", OWNED)
def test_the_plain_walk_changes_nothing(family: str) -> None:
    model = tiny.build(family, "classes").eval()
    batch = tiny.batch(model)
    with torch.no_grad():
        before = model(**batch).logits
        walk(model, Shared(list(range(depth(model)))))
        after = model(**batch).logits
    assert torch.equal(before, after)
    assert any(isinstance(m, Stack) for m in model.modules())


@pytest.mark.parametrize("family", sorted(BOUND))
def test_a_family_whose_loop_cannot_be_owned_says_why(family: str) -> None:
    model = tiny.build(family, "classes")
    with pytest.raises(ValueError, match="use it on one of: bert"):
        walk(model, Shared([0, 0]))


@pytest.mark.parametrize("family", ("gpt2", "llama", "mpnet"))
def test_rows_and_tokens_leave_only_where_that_is_known_to_be_right(family: str) -> None:
    model = tiny.build(family, "classes")
    with pytest.raises(ValueError, match=f"does not do that for {family}"):
        walk(model, TokenThreshold(depth(model)))


@pytest.mark.parametrize("family", BY_EXAMPLE)
def test_tokens_leave_in_every_family_that_allows_it(family: str) -> None:
    """Gathering equals hiding, in each family's own wiring, and the tensor does get shorter."""
    model = tiny.build(family, "classes").eval()
    batch = tiny.batch(model)
    thresholds = TokenThreshold(depth(model), final=0.25)
    walk(model, thresholds)
    lengths: list[int] = []

    def note(layer: Any, args: Any, out: Any) -> None:
        lengths.append((out[0] if isinstance(out, tuple) else out).shape[1])

    for layer in next(m for m in model.modules() if isinstance(m, Stack)).layers:
        layer.register_forward_hook(note)
    with torch.no_grad():
        gathered = model(**batch).logits
        assert min(lengths) < batch["input_ids"].shape[1]
        thresholds.gathers = False
        hidden = model(**batch).logits
    assert torch.allclose(gathered, hidden, atol=1e-5)


@pytest.mark.parametrize("family", BY_EXAMPLE)
def test_exits_read_what_the_head_reads(family: str) -> None:
    """An exit with the head's own weights, after the last layer but one of a model whose last layer is skipped."""
    model = tiny.build(family, "classes").eval()
    batch = tiny.batch(model)
    steps, width, labels = features(model)
    exits = tiny.patience(steps, depth(model), width, labels, patience=1)
    walk(model, exits)
    from gossamer.anatomy import head
    from gossamer.trace import tracing

    answer = head(model).answer
    exits.heads.linear[0].load_state_dict(answer.state_dict())
    with torch.no_grad(), tracing(model) as seen:
        exits.threshold = 99
        out = model(**batch)
        last = seen.hidden[-1]
        assert torch.allclose(tiny.said(exits, 0, last), out.logits, atol=1e-5)
