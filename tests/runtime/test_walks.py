"""Walks: rows leave the batch, tokens leave the row, and no answer can tell."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.anatomy import embeddings
from gossamer.runtime.attention import Heard
from gossamer.runtime.exits import Exits
from gossamer.runtime.passage import Passage, visible
from gossamer.runtime.walks import Shared, Stack, TokenThreshold, Walk, install, stack_of
from gossamer.trace import tracing
from gossamer.walking import depth, features, walk
from tests import tiny
from tests.jobs import wider

LAYERS = 6


def model(layers: int = LAYERS, labels: int = 3, family: str = "bert", seed: int = 0) -> Any:
    settings = {"n_layers": layers} if family == "distilbert" else {"num_hidden_layers": layers}
    more = {"problem_type": "regression"} if labels == 1 else {}
    return tiny.build(family, "classes", seed=seed, num_labels=labels, **settings, **more)


def batch(lengths: list[int], seed: int = 0, width: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(width, *lengths, 1))[None] < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.randint(5, 50, mask.shape, generator=draw) * mask, "attention_mask": mask.long()}


def rows(given: dict[str, Tensor], *which: int) -> dict[str, Tensor]:
    """Some rows of a batch, without the columns that pad all of them."""
    some = {k: v[list(which)] for k, v in given.items()}
    longest = int(some["attention_mask"].sum(1).max())
    return {k: v[:, :longest] for k, v in some.items()}


def patient(made: Any, patience: int, seed: int = 0, tolerance: float = 0.1) -> Exits:
    """Exits that mostly disagree in the beginning, so that examples leave everywhere."""
    steps, width, labels = features(made)
    exits = tiny.patience(steps, depth(made), width, labels, patience, tolerance)
    draw = torch.Generator().manual_seed(seed)
    for head in exits.heads.linear:
        head.weight.data = torch.randn(head.weight.shape, generator=draw)
        head.bias.data = torch.randn(head.bias.shape, generator=draw) * 0.5
    walk(made, exits)
    return exits


class Work:
    """Counts the rows times columns that each stored layer is given."""

    def __init__(self, made: Any) -> None:
        self.shapes: list[tuple[int, int]] = []
        stack = stack_of(made)
        for layer in stack.layers if stack is not None else []:
            layer.register_forward_pre_hook(self.note)

    def note(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.shapes.append(tuple(args[0].shape[:2]))

    def of(self, made: Any, given: dict[str, Tensor]) -> tuple[Tensor, int]:
        """The logits, and how many token-layers were executed."""
        self.shapes = []
        with torch.no_grad():
            out = made(**given).logits
        return out, sum(b * t for b, t in self.shapes)


def replay(made: Any, exits: Exits, given: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
    """What patience decides, row by row, from the answers of every exit in the full model: answers and exit layers."""
    waiting, exits.threshold = exits.threshold, 10**6
    with torch.no_grad(), tracing(made) as seen:
        last = made(**given).logits
        every = [tiny.said(exits, i, seen.hidden[i + 1]) for i in range(exits.depth - 1)]
    exits.threshold = waiting
    answers, layers = last.clone(), [exits.depth] * len(last)
    for row in range(len(last)):
        agreed = 0
        for i in range(1, exits.depth - 1):
            new, old = every[i][row], every[i - 1][row]
            number = exits.heads.labels == 1
            same = abs(float(new - old)) < exits.rule.tolerance if number else new.argmax() == old.argmax()
            agreed = agreed + 1 if same else 0
            if agreed == waiting:
                answers[row], layers[row] = new, i + 1
                break
    return answers, layers


# --- rows leave ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 2, 3, LAYERS])
@pytest.mark.parametrize("lengths", [[5], [4, 9, 6], [7] * 8, [3, 12, 5, 1, 9, 12, 2, 7]], ids=str)
def test_online_is_what_a_replay_of_all_exits_says(lengths: list[int], patience: int) -> None:
    made = model()
    exits, given = patient(made, patience), batch(lengths)
    answers, layers = replay(made, exits, given)
    work = Work(made)
    found, spent = work.of(made, given)
    assert torch.allclose(found, answers, atol=1e-5)
    assert spent <= sum(layers) * max(lengths)
    if len(set(lengths)) == 1:
        assert spent == sum(layers) * lengths[0]  # compaction pays: each row's layers and no more
    assert patience < 3 or LAYERS in layers


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("padding", [0, 5])
def test_an_answer_does_not_depend_on_its_batch_mates(size: int, padding: int) -> None:
    made = model()
    patient(made, 1)
    lengths = [3, 12, 5, 1, 9, 12, 2, 7][:size]
    given = batch(lengths)
    with torch.no_grad():
        together = made(**(wider(given, padding) if padding else given)).logits
        alone = torch.cat([made(**rows(given, i)).logits for i in range(size)])
        backwards = made(**{k: v.flip(0) for k, v in given.items()}).logits.flip(0)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, backwards, atol=1e-5)


def test_the_examples_do_leave_at_different_layers() -> None:
    """Else the tests above would show nothing; and waiting for the slowest would cost more."""
    made = model()
    exits, given = patient(made, 1), batch([7] * 8)
    _, layers = replay(made, exits, given)
    assert len(set(layers)) >= 3
    _, spent = Work(made).of(made, given)
    assert spent == 7 * sum(layers) < 7 * 8 * max(layers)


def test_columns_leave_with_the_rows_that_needed_them() -> None:
    made = model()
    exits = patient(made, 1)
    for seed in range(200):
        given = batch([3, 12, 4], seed=seed)
        _, layers = replay(made, exits, given)
        if layers[1] < min(layers[0], layers[2]):
            break
    else:
        pytest.fail("no text in which the longest row leaves first")
    work = Work(made)
    work.of(made, given)
    assert all(t == 12 for _, t in work.shapes[: layers[1]]) and all(t <= 4 for _, t in work.shapes[layers[1] :])


def test_a_row_that_waits_to_leave_keeps_its_answer() -> None:
    """One of forty has finished: too few to copy the others for, and still its answer is the one it finished with."""
    made = model()
    exits, given = patient(made, 1), batch([6] * 40)
    answers, layers = replay(made, exits, given)
    found, spent = Work(made).of(made, given)
    assert torch.allclose(found, answers, atol=1e-5)
    assert 6 * sum(layers) <= spent < 6 * 40 * max(layers)
    stack = stack_of(made)
    assert stack is not None
    stack.patience_of_batch = 1  # all wait for the last
    found, spent = Work(made).of(made, given)
    assert torch.allclose(found, answers, atol=1e-5) and spent == 6 * 40 * max(layers)


def test_once_all_have_finished_nothing_more_runs() -> None:
    made = model()
    exits = patient(made, 2)
    for head in exits.heads.linear:
        head.weight.data.zero_()  # all exits always say the same
        head.bias.data = torch.tensor([0.0, 1.0, 0.0])
    work = Work(made)
    found, _ = work.of(made, batch([5, 9, 3]))
    assert len(work.shapes) == 3  # patience 2: the third exit is the second to agree
    assert torch.equal(found, torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3))


def test_one_number_agrees_when_it_is_near() -> None:
    made = model(labels=1)
    exits, given = patient(made, 1, tolerance=2.0), batch([4, 9, 6, 2, 7, 5])
    answers, layers = replay(made, exits, given)
    assert len(set(layers)) >= 2
    assert torch.allclose(Work(made).of(made, given)[0], answers, atol=1e-5)
    exits.rule.tolerance = 0.0  # a strict comparison: never
    assert replay(made, exits, given)[1] == [LAYERS] * 6


def test_the_loss_is_that_of_the_answers_given() -> None:
    made = model()
    patient(made, 1)
    given, labels = batch([4, 9, 6]), torch.tensor([0, 2, 1])
    with torch.no_grad():
        out = made(**given, labels=labels)
    assert torch.allclose(out.loss, nn.functional.cross_entropy(out.logits, labels))


@pytest.mark.parametrize("labelled", [False, True])
def test_a_tuple_says_the_same(labelled: bool) -> None:
    made = model()
    patient(made, 1)
    given = batch([4, 9, 6]) | ({"labels": torch.tensor([0, 2, 1])} if labelled else {})
    with torch.no_grad():
        out, plain = made(**given), made(**given, return_dict=False)
    assert isinstance(plain, tuple) and torch.equal(plain[int(labelled)], out.logits)
    assert not labelled or torch.equal(plain[0], out.loss)


def test_without_its_attention_a_walk_that_listens_refuses() -> None:
    made = model()
    thresholds(made, 0.1)
    made.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=r"TokenThreshold heard no attention.*set_attn_implementation\('gossamer'\)"):
        made(**batch([4, 9]))


def test_training_sees_every_layer_and_evaluation_leaves_nothing_behind() -> None:
    made = model()
    exits, given, work = patient(made, 1), batch([5, 8]), Work(made)
    made.train()
    assert work.of(made, given)[1] == 2 * 8 * LAYERS
    made.eval()
    first = work.of(made, given)[0]
    assert torch.equal(work.of(made, given)[0], first)
    other = model(seed=5)  # another model's answers are its own
    with torch.no_grad():
        before = other(**given).logits
        made(**given)
        assert torch.equal(other(**given).logits, before)
    assert exits.threshold == 1


# --- tokens leave ----------------------------------------------------------------------------------------------------


def thresholds(made: Any, final: float) -> TokenThreshold:
    way = TokenThreshold(depth(made), final=final, length=10)
    walk(made, way)
    return way


class Diary(Walk):
    """Writes down what enters the second half of each layer, by the token's place in the text."""

    dynamic, listens, needs_attention = True, True, True

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[dict[tuple[int, int], Tensor]] = []

    def between(self, passage: Passage, heard: Heard | None) -> None:
        if passage.step == 0:
            self.pages = []
        where = passage.valid.nonzero().tolist()
        self.pages.append(
            {(int(passage.rows[i]), int(passage.tokens[i, j])): passage.x[i, j].clone() for i, j in where}
        )


@pytest.mark.parametrize("final", [0.0, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("lengths", [[9], [4, 12, 7], [10] * 8, [1, 12, 3, 8, 2, 11, 6, 9]], ids=str)
def test_gathered_is_masked(lengths: list[int], final: float) -> None:
    made = model()
    way, given = thresholds(made, final), batch(lengths)
    work = Work(made)
    gathered, spent = work.of(made, given)
    widths = [t for _, t in work.shapes]
    way.gathers = False
    masked, full = work.of(made, given)
    assert torch.allclose(gathered, masked, atol=1e-5)
    assert full == len(lengths) * max(lengths) * LAYERS >= spent
    assert final < 0.2 or spent < full
    assert widths == sorted(widths, reverse=True)
    assert final > 0 or widths == [max(lengths)] * LAYERS


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_row_s_tokens_leave_without_regard_to_other_rows(size: int) -> None:
    made = model()
    thresholds(made, 0.15)
    given = batch([1, 12, 3, 8, 2, 11, 6, 9][:size])
    with torch.no_grad():
        together, padded = made(**given).logits, made(**wider(given)).logits
        alone = torch.cat([made(**rows(given, i)).logits for i in range(size)])
    assert torch.allclose(together, alone, atol=1e-5) and torch.allclose(padded, alone, atol=1e-5)


def test_what_is_kept_is_nested_and_the_first_token_stays() -> None:
    made, given = model(), batch([9, 12, 5])
    diary = Diary()
    walk(made, diary)
    thresholds(made, 0.3)
    with torch.no_grad():
        made(**given)
    kept = [set(page) for page in diary.pages]
    assert all(b <= a for a, b in pairwise(kept)) and len(kept[-1]) < len(kept[0])
    assert all((row, 0) in page for page in kept for row in range(3))
    assert kept[0] == {(i, j) for i, n in enumerate((9, 12, 5)) for j in range(n)}  # padding never entered


def test_a_token_is_restored_as_it_was_when_it_left() -> None:
    made, given = model(), batch([9, 12, 5])
    diary = Diary()
    walk(made, diary)
    thresholds(made, 0.3)
    with torch.no_grad():
        final = made.base_model(**given).last_hidden_state
    assert final.shape[:2] == given["input_ids"].shape
    left = 0
    for place in diary.pages[0]:
        last = max(i for i, page in enumerate(diary.pages) if place in page)
        if last < LAYERS - 1:
            assert torch.equal(final[place], diary.pages[last][place])
            left += 1
    assert left > 5


def test_nothing_leaves_under_a_threshold_of_nothing() -> None:
    made, given = model(), batch([9, 12, 5])
    with torch.no_grad():
        before = made(**given).logits
    thresholds(made, 0.0)
    found, spent = Work(made).of(made, given)
    assert torch.allclose(found, before, atol=1e-5) and spent == 3 * 12 * LAYERS


@pytest.mark.parametrize("family", ["distilbert", "roberta", "electra"])
def test_rows_and_tokens_leave_together(family: str) -> None:
    """Both walks on one loop, in both orders; alone, in company, and masked instead of gathered."""
    for first in ("rows", "tokens"):
        made = model(family=family)
        ways: list[Any] = [None, None]
        for which in (first, "tokens" if first == "rows" else "rows"):
            ways[which == "tokens"] = patient(made, 1) if which == "rows" else thresholds(made, 0.15)
        given, work = batch([1, 12, 3, 8, 2, 11, 6, 9]), Work(made)
        together, spent = work.of(made, given)
        alone = torch.cat([work.of(made, rows(given, i))[0] for i in range(8)])
        assert torch.allclose(together, alone, atol=1e-5) and spent < 8 * 12 * LAYERS
        ways[1].gathers = False
        assert torch.allclose(work.of(made, given)[0], together, atol=1e-5)


def test_answers_early_from_a_shared_layer() -> None:
    made = model()
    walk(made, Shared([0, 1, 0, 1, 0, 1]), list(made.bert.encoder.layer)[:2])
    exits, given = patient(made, 1), batch([7, 3, 9])
    assert exits.depth == 6 and len(stack_of(made) or ()) == 2
    answers, layers = replay(made, exits, given)
    found, _ = Work(made).of(made, given)
    assert torch.allclose(found, answers, atol=1e-5) and min(layers) < 6


# --- the loop --------------------------------------------------------------------------------------------------------


def test_orders_chain() -> None:
    made, given = model(4), batch([5, 3])
    by_hand, layers = copy.deepcopy(made), list(made.bert.encoder.layer)
    walk(made, Shared([1, 0, 0]), [layers[2], layers[0]])
    by_hand.bert.encoder.layer = nn.ModuleList([layers[0], layers[2], layers[2]])
    with torch.no_grad():
        assert torch.equal(made(**given).logits, by_hand(**given).logits)
    assert [n for n, _ in made.bert.encoder.layer.named_children()] == ["0", "1", "walks"]


def test_a_loop_is_walked_by_one_of_each_kind() -> None:
    made = model()
    patient(made, 2)
    with pytest.raises(ValueError, match="Exits already walks the layers of this model; use it once"):
        patient(made, 1)
    with pytest.raises(ValueError, match="Shared rearranges the layers, but Exits already walks them; put"):
        install(made, "bert.encoder.layer", Shared([0, 0]), [nn.Identity()])


def test_hooks_in_the_layers_are_gone_after_a_run() -> None:
    made = model()
    thresholds(made, 0.2)
    with torch.no_grad():
        made(**batch([5, 8]))
    stack = stack_of(made)
    assert isinstance(stack, Stack)
    assert not any(m._forward_hooks for layer in stack.layers for m in layer.modules())
    with pytest.raises(RuntimeError):
        made(inputs_embeds=torch.full((1, 3, 5), 1.0))  # of the wrong width
    assert not any(m._forward_hooks for layer in stack.layers for m in layer.modules())


def test_a_tensor_that_cannot_follow_is_refused() -> None:
    layer = nn.Linear(4, 4)
    layer.forward = lambda hidden_states, attention_mask=None, relative=None: hidden_states  # type: ignore[assignment]
    passage = Passage.start(torch.zeros(2, 3, 4), layer, (None,), {"relative": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="this model hands relative to its layers"):
        passage.check("Exits")


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "integers"])
def test_real_tokens_are_read_off_any_mask(kind: str) -> None:
    real = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    masks: dict[str, Any] = {
        "none": None,
        "boolean": real[:, None, None, :].expand(2, 1, 3, 3),
        "additive": torch.zeros(2, 1, 1, 3).masked_fill(~real[:, None, None], torch.finfo(torch.float).min),
        "integers": real.long(),
    }
    seen = visible(masks[kind], 2, 3, torch.device("cpu"))
    assert torch.equal(seen, real if kind != "none" else torch.ones(2, 3, dtype=torch.bool))


def test_positions_are_added_before_anything_leaves() -> None:
    """A walk gathers hidden states only: the tables in front are asked for whole texts."""
    made = model()
    thresholds(made, 0.3)
    asked: list[int] = []
    embeddings(made).word.register_forward_pre_hook(lambda m, args: asked.append(args[0].shape[1]))
    with torch.no_grad():
        made(**batch([9, 4]))
    assert asked == [9]
