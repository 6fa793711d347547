"""What all methods of early exit have in common: replayed, run in batches, left never or at once, it is one thing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from gossamer import artefact, recipe
from gossamer.engines import export, load
from gossamer.engines.laid import Watched
from gossamer.job import Job
from gossamer.loss import EveryExit, Projected, Step, Task, every_exit
from gossamer.measure.layers import watching
from gossamer.measure.macs import count
from gossamer.methods.early_exit import cat, right_tool
from gossamer.methods.early_exit.leebert import CrossLevel, LeeBERT, Mutual
from gossamer.replay import BEYOND, Record, conformal, exits_of, record, replay
from gossamer.runtime.criteria import Agreement, Memory, Votes, entropy
from gossamer.runtime.exits import State
from gossamer.runtime.heads import Branch
from gossamer.runtime.passage import Padded, Passage
from gossamer.runtime.tokens import Policy
from gossamer.trace import tracing
from gossamer.train import Lesson, Moment
from gossamer.walking import exits, walk
from tests import small, texts

NAMES = [n for n, m in recipe.methods().items() if m.__module__.split(".")[-2] == "early_exit" and m.kind == "walk"]
FROZEN = ("CAT", "DeeBERT", "FastBERT")  # the model stands, the exits learn


@pytest.fixture(scope="module", params=[*NAMES, "DeeBERT, mean", "PastFuture, mean", "RightTool, mean"])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job after the method, its exits spread so that texts leave everywhere."""
    return spread(small.after(small.job(tmp_path_factory.mktemp("job")), request.param))


def spread(job: Job) -> Job:
    """A job whose texts leave everywhere."""
    exits = exits_of(job.model)
    assert exits is not None
    torch.manual_seed(0)
    for module in [*exits.heads.modules(), *exits.rule.modules()]:
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(std=1.5 / module.in_features**0.5)
            if module.bias is not None:
                module.bias.data.normal_(std=0.3)
    return job


def states(hidden: list[Tensor], mask: Tensor) -> list[State]:
    """What exits read after each layer, (b, t, d) each, where no token is gone."""
    return [State(step, x, Padded(mask, x)) for step, x in enumerate(hidden)]


def test_the_mean_is_of_the_texts_own_tokens(tmp_path: Path) -> None:
    """By hand, and so that padding counts nowhere."""
    job = small.job(tmp_path)
    found = exits(job.model, {"is": "OwnPooler"}, {"is": "Entropy"}, 0.5, pool="mean")
    x = torch.randn(2, 4, 32)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    [(logits, _), *_] = found.every(states([x, x, x, x], mask))
    first = torch.stack([x[0].mean(0), x[1, :2].mean(0)])
    assert torch.allclose(logits, found.at(0, first, Memory())[0], atol=1e-6)  # type: ignore[index]
    seen = torch.tensor([[[1, 1, 0], [0, 1, 1], [1, 1, 1]]]).bool()[:, None]  # each token sees others
    passage = Passage.start(x[:1, :3], job.model.bert.encoder.layer.layers[0], (), {"attention_mask": seen})
    assert torch.allclose(passage.mean(passage.x), x[:1, :2].mean(1), atol=1e-6), "those that the first token sees"


def test_a_branch_is_attention_among_all_tokens_read_at_the_first(tmp_path: Path) -> None:
    """By hand, keys and values made of every token; texts laid end to end see what padded ones see."""
    job = small.job(tmp_path)
    exits(job.model, {"is": "QueryBranch", "size": 8}, {"is": "Entropy"}, 0.5)
    head, older = exits_of(job.model).heads, Branch(32, 2, 3, 8)
    for one in [*head.parameters(), *older.parameters()]:
        one.data.normal_()
    older.load_state_dict(head.state_dict() | older.k.state_dict(prefix="k."), strict=False)
    older.k[1].weight.data = head.keys[1].data.flatten(0, 1)  # it has a bias as well, which changes nothing
    x, mask = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    narrow = head.narrow[1](x).tanh()
    keys = F.linear(narrow, head.keys[1].flatten(0, 1), torch.randn(8))
    q, k, v = (one.unflatten(-1, (2, 4)).transpose(1, 2) for one in (head.q[1](narrow), keys, head.v[1](narrow)))
    seen = F.scaled_dot_product_attention(q, k, v, mask.bool()[:, None, None, :])
    expected = head.o[1](seen.transpose(1, 2).flatten(-2))[:, 0]
    assert torch.allclose(head.around(1, x, Padded(mask, x)), expected, atol=1e-5)
    assert torch.allclose(older.around(1, x, Padded(mask, x)), expected, atol=1e-5)
    laid = torch.cat([x[0], x[1, :3], torch.randn(2, 32)]).view(2, 5, 32)  # the second row ends with padding
    whole = torch.zeros(2, dtype=torch.bool)
    texts = Watched(laid, {}, whole, whole[:, None], whole[:, None], whole, whole)
    texts.places, texts.owners = torch.tensor([0, 5]), torch.tensor([1] * 5 + [8] * 3 + [7] * 2)
    assert torch.allclose(head.around(1, laid, texts), expected, atol=1e-5)


def test_an_artefact_with_older_branches_is_read(tmp_path: Path) -> None:
    """FastBERT's branches once made keys of every token."""
    model = small.model()
    found = exits(model, {"is": "Branch", "size": 8}, {"is": "Entropy", "share": True}, 0.9)
    for one in found.parameters():
        one.data.normal_()
    artefact.save(model, tmp_path / "old", verify=False)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "old").eval()
    assert torch.allclose(small.logits(again), small.logits(model), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_exits_cost_under_three_per_cent_when_nobody_leaves(name: str, tmp_path: Path) -> None:
    """Counted, of six layers of 384 as the embedded model has them, for short and long texts."""
    job = small.job(tmp_path)
    shape = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=100
    )
    job.model, plain = (BertForSequenceClassification(shape).eval() for _ in range(2))
    next(recipe.methods()[name]()(job))
    found = exits_of(job.model)
    found.eval()
    for long in (24, 256):
        ids = torch.full((1, long), 7)
        hidden, mask = [torch.randn(1, long, 384)] * 6, torch.ones(1, long)
        spent = count(lambda hidden=hidden, mask=mask: found.every(states(hidden, mask)))
        assert 0 < spent < 0.03 * count(lambda ids=ids: plain(input_ids=ids))
    if found.heads.across:  # eight texts in each row of a grid as engines fill them
        firsts, none = torch.arange(0, 2048, 16), torch.zeros(128, dtype=torch.bool)
        x = torch.randn(16, 128, 384)
        texts = Watched(x, {}, none, none[:, None], none[:, None], none, none)
        texts.places, texts.owners = firsts, torch.arange(128).repeat_interleave(16)
        ids = torch.full((1, 128), 7)
        spent = sum(count(lambda i=i: found.around(i, x, texts)) for i in range(5))
        assert 0 < spent < 0.03 * 16 * count(lambda: plain(input_ids=ids))


def thresholds(found: Record, count: int = 20) -> list[float]:
    """Between the scores that occur, so that none is met exactly, and beyond them."""
    scores = found.scores[:-1].flatten()
    seen = scores[scores.isfinite()].unique()
    between = ((seen[1:] + seen[:-1]) / 2).tolist()
    step = max(1, len(between) // count)
    return [float(seen[0]) - 1, *between[::step], float(seen[-1]) + 1]


def online(model: Any, texts: list[dict[str, Any]], size: int, longest: int = 0) -> tuple[list[int], Tensor]:
    """The layers that each text passed, and its answer, in batches of this size whose rows leave one by one."""
    layers, answers = list[int](), list[Tensor]()
    for at in range(0, len(texts), size):
        some = texts[at : at + size]
        with watching(model) as seen:
            answers.append(small.logits(model, small.batch(some, longest)))
        rows = [n for n, _ in seen]
        if len(some) == 1:
            layers.append(len(rows))
    return layers, torch.cat(answers)


def patient(model: Any) -> Any:
    """The stack, whose rows leave at once."""
    stack = model.get_submodule("bert.encoder.layer")
    stack.patience_of_batch = 10**6
    return stack


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_replayed_is_as_run(made: Any, size: int) -> None:
    exits, texts = exits_of(made.model), small.examples(40)
    patient(made.model)
    found = record(made.model, [small.batch([one]) for one in texts])
    before = exits.threshold
    try:
        for exits.threshold in thresholds(found, 20 if size == 1 else 5):
            wanted_layers, wanted = replay(exits, found, exits.threshold)
            for longest in (0, 20):
                layers, answers = online(made.model, texts, size, longest)
                assert torch.allclose(answers, wanted, atol=1e-4)
                assert size > 1 or layers == wanted_layers.tolist()
    finally:
        exits.threshold = before


@pytest.mark.parametrize("tokens", ["LTP", "PoWERBERT", "LAT", "Transkimmer", "TRBERT"])
@pytest.mark.parametrize("name", ["PABEE", "DeeBERT, mean", "PastFuture, mean", "FastBERT"])
def test_replayed_is_as_run_where_tokens_leave(name: str, tokens: str, tmp_path: Path) -> None:
    """What an exit reads of all tokens is read of those that are left, whichever came first."""
    for i, order in enumerate([(tokens, name), (name, tokens)]):
        job = spread(small.after(small.job(tmp_path / str(i)), *order))
        job.model.double()  # else a token beside a threshold falls to either side, as the order of a sum has it
        exits, texts = exits_of(job.model), small.examples(40)
        patient(job.model)
        exits.threshold = BEYOND if exits.rule.rising else -BEYOND
        with watching(job.model) as seen:
            [small.logits(job.model, small.batch([one])) for one in texts[:8]]
        left = sum(rows * tokens for rows, tokens in seen)
        assert left < len(seen) * np.mean([len(one["input_ids"]) for one in texts[:8]]), "tokens leave"
        found = record(job.model, [small.batch(texts)])
        for exits.threshold in thresholds(found, 2):
            wanted_layers, wanted = replay(exits, found, exits.threshold)
            for size in (1, 8):
                layers, answers = online(job.model, texts, size)
                assert torch.allclose(answers.float(), wanted, atol=1e-4)
                assert size > 1 or layers == wanted_layers.tolist()


def test_exits_learn_of_the_tokens_that_are_left(tmp_path: Path) -> None:
    """Of a choice by chance with a gradient too: what is skimmed is in no mean."""
    job = small.after(small.job(tmp_path), "DeeBERT, mean")
    walk(job.model, Policy(4, 32, [0, 1, 2, 3], deep=True))
    [policy] = [module for module in job.model.modules() if isinstance(module, Policy)]
    for net in policy.nets:
        net[-1].bias.data.zero_()
    policy.mode, exits = "soft", exits_of(job.model)
    with tracing(job.model.train()) as seen:
        job.model(**small.batch())
    assert len(seen.states) == 4
    counts = [(state.texts.shown[:, 0, 0] == 0).sum(1).float() for state in seen.states]
    for found, (kept, whole) in zip(counts, policy.counts, strict=True):
        assert torch.equal(found, kept.detach()) and not torch.equal(found, whole)
    mean, x = exits.around(1, *seen.states[1][1:]), seen.states[1].x
    left = seen.states[1].texts.shown[:, 0, 0] == 0
    assert torch.allclose(mean, (x * left[..., None]).sum(1) / left.sum(1, keepdim=True), atol=1e-5)


def test_labels_may_be_given_by_position(made: Any) -> None:
    """The loss is that of the answers, and no output takes another's place."""
    exits, given = exits_of(made.model), small.batch()
    labels = torch.zeros(len(given["input_ids"]), dtype=torch.long)
    levels = thresholds(record(made.model, [given]))
    before, exits.threshold = exits.threshold, levels[len(levels) // 2]
    try:
        with torch.no_grad():
            wanted = made.model(**given, labels=labels)
            place = made.model(given["input_ids"], given["attention_mask"], None, None, None, labels)
            plain = made.model(given["input_ids"], given["attention_mask"], None, None, None, labels, return_dict=False)
    finally:
        exits.threshold = before
    for loss, logits in ((place.loss, place.logits), plain):
        assert torch.equal(logits, wanted.logits) and torch.equal(loss, wanted.loss)
    assert torch.allclose(wanted.loss, F.cross_entropy(wanted.logits, labels))


def test_all_four_kinds_in_one(tmp_path: Path) -> None:
    """Structure cut, tokens and texts leaving, whole numbers: replayed is as run, and engines give the same answers."""
    job = spread(small.after(small.job(tmp_path / "job"), "CoFi", "LTP", "DeeBERT, mean", "Int8"))
    model, asked = small.precise(job.model), small.examples(40)
    exits = exits_of(model)
    patient(model)
    found = record(model, [small.batch(asked)])
    for exits.threshold in thresholds(found, 4):
        _, wanted = replay(exits, found, exits.threshold)
        for size in (1, 8):
            assert torch.allclose(online(model, asked, size)[1].float(), wanted, atol=1e-5)
    tokenizer = texts.tokenizer()
    words = [" ".join(f"w{(7 * i + j * j) % 80}" for j in range(2 + 3 * i % 11)) for i in range(24)]
    place = artefact.save(job.model, tmp_path / "a", tokenizer=tokenizer, verify=False,
                          also=lambda part: export.write(job.model, tokenizer, part))  # fmt: skip
    said = [load(place, engine).logits(words) for engine in ("torch", "onnxruntime", "openvino")]
    for other in said[1:]:  # a number between two integers falls to either side
        apart = np.sort(np.abs(other - said[0]).max(1))
        assert apart[int(0.9 * len(apart)) - 1] < 1e-4 and apart[-1] < 0.2 * np.abs(said[0]).max()


def test_as_many_layers_run_as_texts_need(made: Any) -> None:
    """Counted: rows times layers with compaction are the sum of the exit layers; without, all wait for the last."""
    exits, texts = exits_of(made.model), small.examples(24)
    stack = patient(made.model)
    found = record(made.model, [small.batch(texts)])
    levels = thresholds(found)
    before, exits.threshold = exits.threshold, levels[len(levels) // 2]
    layers, _ = replay(exits, found, exits.threshold)
    try:
        with watching(made.model) as seen:
            small.logits(made.model, small.batch(texts))
        assert sum(rows for rows, _ in seen) == int(layers.sum())
        stack.patience_of_batch = 0  # nobody leaves before the last one may
        with watching(made.model) as seen:
            small.logits(made.model, small.batch(texts))
        assert sum(rows for rows, _ in seen) == 24 * int(layers.max())
    finally:
        exits.threshold, stack.patience_of_batch = before, 8


def test_a_threshold_moves_exits_one_way(made: Any) -> None:
    exits = exits_of(made.model)
    found = record(made.model, [small.batch(small.examples(24))])
    layers = torch.stack([replay(exits, found, level)[0] for level in thresholds(found)])  # (thresholds, texts)
    steps = layers[1:] - layers[:-1]
    assert bool((steps >= 0).all() if exits.rule.rising else (steps <= 0).all())
    assert int(layers.min()) < int(layers.max()) == 4


def test_never_is_the_whole_model_and_at_once_the_first_exit(made: Any) -> None:
    exits, given = exits_of(made.model), small.batch()
    found = record(made.model, [given])
    ends = (thresholds(found)[0], thresholds(found)[-1])
    never, always = ends[::-1] if exits.rule.rising else ends
    before = exits.threshold
    try:
        exits.threshold = never
        assert torch.allclose(small.logits(made.model), found.answers[-1], atol=1e-5)
        if not exits.rule.concludes and exits.depth not in exits.places:
            with tracing(made.model):
                exits.whole = True
                assert torch.allclose(small.logits(made.model), found.answers[-1], atol=1e-5)
        exits.whole = False
        first = exits.rule.earliest()
        exits.threshold = always
        layers, _ = replay(exits, found, always)
        assert int(layers.min()) == exits.places[first]
        if exits.criterion["is"] != "Agreement":  # of which there must be one, whatever is asked
            assert layers.unique().tolist() == [exits.places[first]]
            assert torch.allclose(small.logits(made.model), found.answers[first], atol=1e-5)
    finally:
        exits.threshold, exits.whole = before, False


@pytest.mark.parametrize("name", FROZEN)
def test_a_model_that_stands_is_the_same_to_the_last_bit(name: str, tmp_path: Path) -> None:
    job = small.job(tmp_path)
    before = {k: v.clone() for k, v in job.model.state_dict().items()}
    if name == "FastBERT":  # from what the model says, not from labels
        job.train = [{k: v for k, v in one.items() if k != "labels"} | {"labels": 0} for one in job.train]
    small.after(job, name)
    after = {k: v for k, v in job.model.state_dict().items() if ".walks." not in k}
    assert set(after) == set(before) and all(torch.equal(v, before[k]) for k, v in after.items())


# --- losses ----------------------------------------------------------------------------------------------------------


def seen(name: str, tmp_path: Path) -> tuple[Any, Any, Step, list[Tensor]]:
    """A job whose method has begun, its first stage, a step without dropout, and all exits' logits in it."""
    job = small.job(tmp_path)
    stage = next(small.method(name)(job))
    batch = job.collate(job.train[:8])
    job.model.eval()
    exits = exits_of(job.model)
    exits.whole = True
    with tracing(job.model) as trace, torch.no_grad():
        trace.out = job.model(**job.task.given(batch))
    trace.out = job.task.said(trace.out, batch)
    step = Step(trace, None, batch, 1.0)
    stage.loss.eval()
    return job, stage, step, [z for z, _ in every_exit(exits, step)]


def kl(teacher: Tensor, student: Tensor, heat: float = 1.0) -> Tensor:
    log = (student / heat).log_softmax(-1)
    return F.kl_div(log, (teacher / heat).softmax(-1), reduction="batchmean") * heat**2


def test_one_loss_with_other_numbers_is_each_methods(tmp_path: Path) -> None:
    """Property 10: DeeBERT w = 1 below the end; PABEE w = i; FastBERT a_iL = 1; RomeBERT 1 - gamma and gamma T^2."""

    def ce(z: Tensor, step: Step) -> Tensor:
        return F.cross_entropy(z, step.batch["labels"])

    for name in ("DeeBERT", "PABEE", "FastBERT", "RomeBERT", "RightTool", "PCEEBERT"):
        _, stage, step, z = seen(name, tmp_path / name)
        own = [ce(one, step) for one in z]
        expected = {
            "DeeBERT": lambda own=own: sum(own[:-1]),
            "PABEE": lambda own=own: sum((i + 1) * one for i, one in enumerate(own)) / 10,
            "PCEEBERT": lambda own=own: sum((i + 1) * one for i, one in enumerate(own)) / 10,
            "FastBERT": lambda z=z: sum(kl(z[-1], one) for one in z[:-1]),
            "RomeBERT": lambda z=z, own=own: (
                own[-1] + sum(0.1 * a + 0.9 * kl(z[-1], b, 3.0) for a, b in zip(own[:-1], z[:-1], strict=True))
            ),
            "RightTool": lambda own=own: sum(own),
        }[name]()
        with torch.no_grad():
            assert torch.allclose(stage.loss(step), torch.as_tensor(expected), atol=1e-5), name


def test_branches_learn_without_labels(tmp_path: Path) -> None:
    _, stage, step, z = seen("FastBERT", tmp_path)
    step.batch = {k: v for k, v in step.batch.items() if k != "labels"}
    assert torch.allclose(stage.loss(step), sum(kl(z[-1], one) for one in z[:-1]), atol=1e-5)
    assert not stage.loss.get_buffer("weights").any()


class Plain(Task):
    """A loss that is a function of some parameters."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, step: Any) -> Tensor:
        return self.value()


@pytest.mark.parametrize("conflict", [True, False])
def test_what_points_against_the_anchor_is_taken_out(conflict: bool) -> None:
    torch.manual_seed(1)
    a, b = torch.randn(2, 7)
    if (float(a @ b) < 0) != conflict:
        b = -b
    p = nn.Parameter(torch.randn(7))
    loss = Projected(Plain(lambda: a @ p), Plain(lambda: b @ p), [p])(None)
    assert torch.allclose(loss, (a + b) @ p)
    loss.backward()
    expected = b - (a @ b) / (a @ a) * a if conflict else b
    assert torch.allclose(p.grad, a + expected, atol=1e-6)
    assert float(a @ (p.grad - a)) >= -1e-5 * float(a.norm() * b.norm())


def test_in_equilibrium_a_layer_has_the_mean_gradient_of_its_answers(tmp_path: Path) -> None:
    """Property 6: of the answers after it, each as if it were alone."""
    job = small.job(tmp_path)
    stage = next(small.method("PABEE")(job))
    exits = exits_of(job.model)
    assert exits is not None
    batch = job.collate(job.train[:8])
    for module in job.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    job.model.config.hidden_dropout_prob = 0.0

    def gradients(weights: list[float], balanced: bool) -> list[torch.Tensor]:
        lesson = Lesson(job.model.train(), EveryExit(exits, weights), None)
        exits.balanced = balanced
        job.model.zero_grad()
        lesson(**batch)["loss"].backward()
        exits.balanced = False
        return [layer.output.dense.weight.grad.clone() for layer in job.model.bert.encoder.layer.layers]

    assert stage.name == "exits" and exits.places == [1, 2, 3]
    alone = [gradients([float(i == k) for i in range(4)], balanced=False) for k in range(4)]
    for layer, found in enumerate(gradients([1.0] * 4, balanced=True)):
        wanted = torch.stack([alone[k][layer] for k in range(layer, 4)]).mean(0)
        assert torch.allclose(found, wanted, atol=1e-7, rtol=1e-3)


def test_mutual_learning_reaches_the_learner_only(tmp_path: Path) -> None:
    job, stage, step, _ = seen("LeeBERT", tmp_path)
    loss, exits = stage.loss, exits_of(job.model)
    loss.get_buffer("weights").zero_()
    loss.get_buffer("weights")[0] = 1e-9
    loss.get_buffer("pulls").zero_()
    loss.get_buffer("pulls")[0, 2] = 1.0
    loss(step).backward()
    grads = [linear.weight.grad for linear in exits.heads.linear]
    assert float(grads[0].abs().max()) > 0 and (grads[2] is None or not grads[2].any())


def test_without_partners_it_is_patience(tmp_path: Path) -> None:
    _, stage, step, _ = seen("LeeBERT", tmp_path / "a")
    stage.loss.get_buffer("pulls").zero_()
    _, other, again, _ = seen("PABEE", tmp_path / "b")
    with torch.no_grad():  # the exits begin alike
        assert torch.allclose(stage.loss(step), other.loss(again), atol=1e-6)


def test_the_weights_follow_the_outer_gradient(tmp_path: Path) -> None:
    """The finite difference is <grad of each loss, grad of the outer loss> / |grad of the outer loss|."""
    job = small.job(tmp_path)
    method = LeeBERT(patience=1, rate=1.0, cross=0.0)
    stage = next(method(job))
    job.model.train()
    exits, loss = exits_of(job.model), stage.loss
    assert isinstance(loss, Mutual)
    level = CrossLevel(job, exits, loss, method)
    params = [p for p in job.model.parameters() if p.requires_grad]
    outer = level.gradient(level.batch(1, 1), params)
    length = torch.stack([g.square().sum() for g in outer]).sum().sqrt()
    terms = torch.cat([t.flatten() for t in level.terms(level.batch(0, 1))])
    slopes = []
    for term in terms:
        own = torch.autograd.grad(term, params, retain_graph=True, allow_unused=True)
        slopes.append(sum(float((a * b).sum()) for a, b in zip(own, outer, strict=True) if a is not None))
    slope = torch.tensor(slopes) / length
    weights = torch.cat([loss.get_buffer("weights"), loss.get_buffer("pulls").flatten()])
    expected = weights * (slope - (weights * slope).sum())
    free = loss.get_buffer("free").clone()
    values = [p.detach().clone() for p in params]
    level.move(1)
    assert torch.allclose(loss.get_buffer("free") - free, expected, atol=5e-3 * float(expected.abs().max()))
    assert all(torch.allclose(p, v, atol=1e-6) for p, v in zip(params, values, strict=True))
    assert abs(float(loss.get_buffer("weights").sum()) - 1) < 1e-5
    assert not loss.get_buffer("pulls").diagonal().any()


def test_steps_alternate(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    stage = next(small.method("BERxiT")(job))
    alternating = stage.loss.terms[0].train()
    lesson = Lesson(job.model.eval(), alternating, None)
    exits_of(job.model).whole = True
    alternating.train()
    batch = job.collate(job.train[:8])
    values = [float(lesson(**batch)["loss"].detach()) for _ in range(4)]
    own = float(F.cross_entropy(small.logits(job.model, {k: batch[k] for k in ("input_ids", "attention_mask")}),
                                batch["labels"]))  # fmt: skip
    assert values[0] == values[2] == pytest.approx(own, abs=1e-5) and values[1] == values[3] > 2 * own


def test_guesses_end_with_the_last_layer(tmp_path: Path) -> None:
    """The last exit has nothing to guess; a perfect guess costs nothing."""
    job, stage, step, z = seen("PastFuture", tmp_path)
    head = exits_of(job.model).heads
    for guess in head.guess:
        guess.weight.data.normal_()
    after = [one for one, _ in every_exit(exits_of(job.model), step)]
    assert torch.equal(after[-1], z[-1]) and not torch.equal(after[0], z[0])
    imitation = stage.loss.terms[1]
    first = step.student.states[0]
    step.student.states = [first._replace(step=i) for i in range(4)]
    for layer in range(1, 4):
        head.pooler[layer].load_state_dict(head.pooler[0].state_dict())
        head.guess[layer].weight.data.copy_(torch.eye(32) * 1e-3)
    target = head.pooler[0](first.x[:, 0]).tanh()
    with torch.no_grad():
        assert float(imitation(step)) < 1e-3 + float(1 - F.cosine_similarity((target * 1e-3).tanh(), target, -1).mean())


@pytest.mark.parametrize("past", [True, False])
def test_a_gate_chooses_between_what_was_and_what_is_guessed(past: bool, tmp_path: Path) -> None:
    """An open gate leaves twice the projected pooled states so far, a closed one twice the guesses'; by hand."""
    job, _, step, _ = seen("PastFuture", tmp_path)
    head = exits_of(job.model).heads
    head.gate.weight.data.zero_()
    head.gate.bias.data.fill_(1e3 if past else -1e3)
    said = [one for one, _ in every_exit(exits_of(job.model), step)]
    pooled = [head.pooler[i](state.x[:, 0]).tanh() for i, state in enumerate(step.student.states)]
    for i, found in enumerate(said):
        guessed = [head.guess[j](pooled[i]).tanh() for j in range(i + 1, 4)]
        vectors = enumerate(pooled[: i + 1]) if past else enumerate(guessed, i + 1)
        wanted = sum((2 * head.project[j](one)[:, :2] for j, one in vectors), torch.zeros(8, 2))
        assert torch.allclose(found, wanted, atol=1e-5)


def test_past_states_are_cut_off_and_projections_learn_from_every_exit(tmp_path: Path) -> None:
    """As in the authors' code: an exit moves the projections of all layers, and of pooled states its own alone."""
    job = small.job(tmp_path)
    stage = next(small.method("PastFuture")(job))
    exits, batch = exits_of(job.model), job.collate(job.train[:8])
    job.model.train()

    def moved(weights: list[float]) -> tuple[list[float], list[float], list[float]]:
        job.model.zero_grad()
        Lesson(job.model, EveryExit(exits, weights), None)(**batch)["loss"].backward()
        groups = exits.heads.project, exits.heads.pooler, job.model.bert.encoder.layer.layers
        pick = [lambda m: m.weight, lambda m: m.weight, lambda m: m.output.dense.weight]
        return tuple([0.0 if (g := of(m).grad) is None else float(g.norm()) for m in group]
                     for group, of in zip(groups, pick, strict=True))  # fmt: skip

    assert exits.cut == [1.0, 1.0] and exits.heads.project[0].bias is not None
    project, pooler, layers = moved([0.0, 0.0, 0.0, 1.0])
    assert min(project) > 0 and pooler[:3] == [0.0] * 3 and pooler[3] > 0
    assert layers[:2] == [0.0, 0.0] and min(layers[2:]) > 0, "the first two are cut off, for the layers above too"
    assert moved([1.0] * 4)[2][:2] == [0.0, 0.0]
    embeddings = job.model.bert.embeddings.word_embeddings.weight.grad
    assert embeddings is None or float(embeddings.norm()) == 0
    stage.each_step(Moment(1.0, None))
    assert min(moved([0.0, 0.0, 0.0, 1.0])[2]) > 0, "at the end nothing is cut off"


# --- criteria --------------------------------------------------------------------------------------------------------


def test_entropy_neither_overflows_nor_is_lost() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    p = z[2].softmax(-1)
    expected = torch.tensor([0.0, math.log(3), float(-(p * p.log()).sum())])
    assert torch.allclose(entropy(z), expected, atol=1e-6)


def test_votes_add_up_and_ties_go_to_the_more_probable() -> None:
    rule, memory = Votes(), dict[str, Tensor]()
    exits = [torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([[0.0, 0.1, 0.0]])]
    scores = []
    for i, z in enumerate(exits):
        scores.append(float(rule.score(i, z, z, memory)))
        assert float(memory["votes"].sum()) == i + 1
        if i == 1:
            assert int(rule.answer(z, memory).argmax()) == 1, "one vote each, and more probability"
    assert scores == [1.0, 1.0, 2.0] and int(rule.answer(exits[2], memory).argmax()) == 1
    assert torch.allclose(rule.answer(z, memory).exp().sum(), torch.tensor(1.0), atol=1e-5)


def test_a_temperature_makes_the_likelihood_no_worse() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (400,))
    z = 6 * (F.one_hot(labels, 3) + torch.randn(400, 3))
    found = right_tool.heat(z, labels)
    assert found > 2 and float(F.cross_entropy(z / found, labels)) < float(F.cross_entropy(z, labels))
    assert torch.equal((z / found).argmax(-1), z.argmax(-1))


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_guarantee_holds(epsilon: float, conditional: bool) -> None:
    """1,000 draws of exchangeable scores: the answer is the last exit's in a share of at least 1 - epsilon."""
    chance = np.random.default_rng(0)
    agreed = []
    for _ in range(1000):
        both = []
        for n in (60, 40):  # to calibrate, to test
            right = chance.random((4, n)) < np.array([0.6, 0.7, 0.85, 1.0])[:, None]
            scores = np.clip(0.5 + 0.25 * right + 0.2 * chance.standard_normal((4, n)), 0, 1)
            answers = torch.zeros(4, n, 2)
            answers[..., 1] = torch.from_numpy(np.where(right, 1.0, -1.0))
            both.append(Record(answers, torch.from_numpy(scores), answers, [], [1, 2, 3, 4]))
        level = conformal(both[0], epsilon, conditional)
        certain = both[1].scores > level
        certain[-1] = True
        at = certain.int().argmax(0)
        answer = both[1].answers[at, torch.arange(40)].argmax(-1)
        agreed.append(float((answer == 1).float().mean()))
    spread = 3 * np.std(agreed) / len(agreed) ** 0.5
    assert np.mean(agreed) >= 1 - epsilon - spread
    if not conditional:
        assert np.mean(agreed) <= 1 - epsilon / 3, "it is no more careful than it says"


def test_a_stricter_guarantee_exits_no_earlier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = Record(torch.randn(4, 50, 2), torch.rand(4, 50), torch.randn(4, 50, 2), [], [1, 2, 3, 4])
    levels = [conformal(found, epsilon) for epsilon in (0.5, 0.3, 0.1, 0.0)]
    assert levels == sorted(levels) and levels[-1] > float(found.scores.max())
    found.scores = 1 - found.scores
    falling = [conformal(found, epsilon, rising=False) for epsilon in (0.5, 0.3, 0.1, 0.0)]
    assert falling[:3] == pytest.approx([1 - level for level in levels[:3]], abs=1e-6)


def test_a_threshold_that_nobody_reaches_is_beyond_what_was_seen() -> None:
    """Of ten texts two exits agreed at most; another text's may four times."""
    answers = torch.randn(4, 10, 2)
    found = Record(answers, torch.tensor([0.0, 1.0, 1.0, 0.0])[:, None].expand(4, 10), answers, [], [1, 2, 3, 4])
    level = conformal(found, 0.0)
    assert not bool(Agreement().certain(torch.tensor([4, 24, 96]), level).any())
    assert conformal(found, 0.0, rising=False) < -96


def test_numbers_are_promised_nothing() -> None:
    answers = torch.randn(4, 10, 1)
    found = Record(answers, torch.rand(4, 10), answers, [], [1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"found answers that are numbers, expected classes.*--max-drop"):
        conformal(found, 0.1)


@pytest.mark.parametrize(("epsilon", "told"), [(0.1, True), (0.5, False)])
def test_too_few_texts_to_promise_anything_are_told(
    epsilon: float, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Six texts calibrate; a promise of 0.9 takes nine."""
    next(recipe.methods()["CAT"](epsilon=epsilon)(small.job(tmp_path)))
    assert ("6 texts to calibrate by, two fifths of the development texts, are too few" in caplog.text) is told


def test_parts_do_not_overlap(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    found = cat.parts(job)
    assert sorted(e["index"] for part in found for e in part) == [e["index"] for e in job.dev]
    assert [len(part) for part in found] == [4, 6, 6]


@pytest.mark.parametrize("name", ["CAT", "RightTool"])
def test_who_calibrates_asks_for_texts_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    job = small.job(tmp_path)
    job.dev = []
    with pytest.raises(ValueError, match=r"found (0|no) development texts.*give data with a dev file"):
        next(small.method(name)(job))
    assert exits_of(job.model) is None


def test_what_is_kept_of_a_text_is_not_taken_for_its_tokens() -> None:
    """As many votes as tokens: tokens leave, votes do not."""
    valid = torch.tensor([[True, True, True, True], [True, True, False, False]])
    empty = torch.zeros(2, dtype=torch.int64)
    passage = Passage(torch.randn(2, 4, 8), {}, torch.arange(2), torch.arange(4).expand(2, 4), valid, valid.sum(1),
                      empty != 0)  # fmt: skip
    votes, marks = torch.randn(2, 4), torch.randn(2, 4)
    passage.memory["votes"], passage.marks["held"] = votes, marks
    passage.keep_tokens(torch.tensor([[True, False, True, False], [True, True, False, False]]))
    assert torch.equal(passage.memory["votes"], votes)
    assert torch.equal(passage.marks["held"], torch.stack([marks[0, [0, 2]], marks[1, [0, 1]]]))
    passage.keep_rows(torch.tensor([False, True]))
    assert torch.equal(passage.memory["votes"], votes[1:])
