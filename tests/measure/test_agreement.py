"""The metrics against implementations that others wrote: one number, whoever computes it, to 1e-6.

What a metric's own tests hold against another implementation already (accuracy, macro F1, Matthews, the correlations,
KL, McNemar, ranks, areas) is not repeated; here is the rest, on drawn inputs.
"""

from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.benchmarks import intents
from gossamer.benchmarks.scores import f1
from gossamer.measure.calibration import calibration
from gossamer.measure.churn import churn
from gossamer.measure.curves import Point, cost_at, elue, front, hypervolume
from gossamer.measure.fidelity import log_softmax
from gossamer.measure.loyalty import label_loyalty, probability_loyalty, softmax
from gossamer.measure.quality import fisher, wilson
from gossamer.measure.slices import slices
from gossamer.metrics import passages

NEAR = {"abs": 1e-6, "rel": 0}
some, few = (settings(deadline=None, max_examples=n) for n in (25, 5))  # the first call imports
shapes = st.tuples(st.integers(1, 30), st.integers(2, 5))


def answered(k):
    """k (n, classes) of logits and (n,) labels."""
    return shapes.flatmap(
        lambda shape: st.tuples(
            *[arrays(np.float64, shape, elements=st.floats(-30, 30))] * k,
            arrays(np.int64, shape[:1], elements=st.integers(0, shape[1] - 1)),
        )
    )


@some
@given(answered(1))
def test_probabilities_are_scipys(drawn):
    special = pytest.importorskip("scipy.special")
    logits, _ = drawn
    assert softmax(logits) == pytest.approx(special.softmax(logits, axis=-1), **NEAR)
    assert log_softmax(logits) == pytest.approx(special.log_softmax(logits, axis=-1), **NEAR)


@some
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # scipy's, see below
@given(answered(2), st.sampled_from([2, np.e]))
def test_loyalty_is_scipys_distance_and_scikit_learns_accuracy(drawn, base):
    metrics, spatial = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.spatial.distance")
    special = pytest.importorskip("scipy.special")
    teacher, student, _ = drawn
    far = spatial.jensenshannon(*(special.softmax(x, axis=-1) for x in (teacher, student)), base=base, axis=1)
    # where rows are all but equal, scipy's squared distance may be rounded to a hair under 0, whose root is nan
    assert probability_loyalty(teacher, student, base) == pytest.approx(1 - np.nan_to_num(far).mean(), **NEAR)
    agreed = metrics.accuracy_score(teacher.argmax(1), student.argmax(1))
    assert label_loyalty(teacher, student) == pytest.approx(agreed, **NEAR)


@some
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_is_scipys_for_any_counts_and_confidence(counts, confidence):
    stats = pytest.importorskip("scipy.stats")
    other = stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson(*counts, stats.norm.ppf((1 + confidence) / 2)) == pytest.approx((other.low, other.high), **NEAR)


@some
@given(st.integers(4, 40).flatmap(lambda n: arrays(np.float64, (2, n), elements=st.integers(-9, 9).map(float))))
def test_fisher_is_scipys_for_any_correlation(columns):
    stats = pytest.importorskip("scipy.stats")
    assume(np.ptp(columns, axis=1).all())
    found = stats.pearsonr(*columns)
    assume(abs(found.statistic) < 1 - 1e-9)  # at the very end scipy's arctanh is rounding, and ours a point
    other = found.confidence_interval(0.95)
    assert fisher(found.statistic, columns.shape[1]) == pytest.approx((other.low, other.high), **NEAR)


@some
@given(answered(1))
def test_brier_is_scikit_learns(drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = drawn
    p, classes = softmax(logits), list(range(logits.shape[1]))
    if len(classes) > 2:  # there two classes are halved unless told otherwise, more than two are not
        other = metrics.brier_score_loss(labels, p, labels=classes)
    else:
        other = 2 * metrics.brier_score_loss(labels, p[:, 1], labels=classes, pos_label=1)
    assert calibration(logits, labels).brier == pytest.approx(other, **NEAR)


@some
@given(answered(1), st.integers(1, 15))
def test_the_reliability_table_is_scikit_learns(drawn, bins):
    other = pytest.importorskip("sklearn.calibration").calibration_curve
    logits, labels = drawn
    confidence, hits = softmax(logits).max(1), logits.argmax(1) == labels
    edges = confidence * bins - np.round(confidence * bins)
    assume((np.abs(edges) > 1e-9)[confidence < 1 - 1e-9].all())  # on an edge, rounding decides
    accuracy, mean = other(hits.astype(int), np.minimum(confidence, 1), n_bins=bins)
    table = [one for one in calibration(logits, labels, bins).bins if one.count]
    assert [one.accuracy for one in table] == pytest.approx(accuracy, **NEAR)
    assert [one.confidence for one in table] == pytest.approx(mean, **NEAR)


@few
@given(shapes, st.integers(1, 15), st.integers(0, 10**6))
def test_calibration_errors_are_torchmetrics(shape, bins, seed):
    torch = pytest.importorskip("torch")
    other = pytest.importorskip("torchmetrics.functional.classification").multiclass_calibration_error
    chance = np.random.default_rng(seed)
    logits, labels = 2 * chance.normal(size=shape), chance.integers(0, shape[1], shape[0])
    p = softmax(logits)
    edges = p.max(1) * bins - np.round(p.max(1) * bins)
    assume((np.abs(edges) > 1e-5).all())  # on an edge, single precision decides
    found = calibration(logits, labels, bins)
    for norm, ours in (("l1", found.ece), ("max", found.mce)):
        theirs = other(torch.tensor(p), torch.tensor(labels), p.shape[1], n_bins=bins, norm=norm)
        assert ours == pytest.approx(float(theirs), **NEAR)


@some
@given(answered(2))
def test_flips_are_scikit_learns_confusions(drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    teacher, student, labels = drawn
    before, after = (x.argmax(1) == labels for x in (teacher, student))
    [[wrong, good], [bad, _]] = metrics.confusion_matrix(before, after, labels=[False, True])
    found = churn(teacher, student, labels)
    assert (found.bad, found.good) == (bad, good)
    assert found.astray <= wrong
    assert found.changed == pytest.approx(metrics.zero_one_loss(teacher.argmax(1), student.argmax(1)), **NEAR)


@some
@given(answered(2))
def test_slices_by_label_are_scikit_learns_recalls(drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    teacher, student, labels = drawn
    found = [one for one in slices(teacher, student, ["a"] * len(labels), labels) if one.by == "label"]
    kinds = np.unique(labels)
    for side, logits in (("before", teacher), ("after", student)):
        recalls = metrics.recall_score(labels, logits.argmax(1), labels=kinds, average=None, zero_division=0)
        assert [getattr(one, side) for one in found] == pytest.approx(recalls, **NEAR)


@some
@given(answered(1), st.sampled_from("abcde"))
def test_f1_of_a_named_class_is_scikit_learns(drawn, positive):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = drawn
    names = np.array(list("abcde"))
    said, true = names[logits.argmax(1)], names[labels]
    [other] = metrics.f1_score(true, said, labels=[positive], average=None, zero_division=0)
    assert f1(said, true, positive) == pytest.approx(other, **NEAR)


@some
@given(answered(1), st.data())
def test_the_scope_of_intents_is_scikit_learns(drawn, data):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = drawn
    out, said = data.draw(st.sampled_from(labels.tolist())), logits.argmax(1)
    assume((labels != out).any())
    found = intents.scope(said, labels, out)
    [recall] = metrics.recall_score(labels, said, labels=[out], average=None)
    inside = labels != out
    assert found.out_of_scope_recall == pytest.approx(recall, **NEAR)
    assert found.in_scope_accuracy == pytest.approx(metrics.accuracy_score(labels[inside], said[inside]), **NEAR)


rankings = st.tuples(st.integers(1, 6), st.integers(3, 8)).flatmap(
    lambda shape: st.tuples(
        st.lists(st.permutations(range(shape[1])), min_size=shape[0], max_size=shape[0]),
        arrays(np.int64, shape, elements=st.integers(0, 3)),
        st.integers(1, shape[1]),
    )
)


@some
@given(rankings)
def test_rankings_are_scored_as_by_scikit_learn(drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    orders, gains, k = drawn
    orders, (queries, n) = np.array(orders), gains.shape
    seen = np.empty(gains.shape)  # scores that sort into these orders
    np.put_along_axis(seen, orders, np.tile(np.arange(n, 0, -1.0), (queries, 1)), axis=1)
    gains[:, 0] += 1  # each query has something to find
    relevant = [{d: float(g) for d, g in enumerate(row) if g} for row in gains]
    assert intents.ndcg_at(orders, relevant, k) == pytest.approx(metrics.ndcg_score(gains, seen, k=k), **NEAR)
    only = gains.argmax(1)  # of one relevant document recall is top-k accuracy, the reciprocal rank average precision
    found = intents.recall_at(orders, [[one] for one in only], k)
    other = metrics.top_k_accuracy_score(only, seen, k=k, labels=range(n)) if k < n else 1
    assert found == pytest.approx(other, **NEAR)
    other = metrics.label_ranking_average_precision_score(np.eye(n)[only], seen)
    assert intents.reciprocal_rank(orders, [[one] for one in only]) == pytest.approx(other, **NEAR)


@some
@given(arrays(np.float64, st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 4)), elements=st.integers(-9, 9)))
def test_cosines_are_scikit_learns(two):
    other = pytest.importorskip("sklearn.metrics.pairwise").paired_cosine_distances
    assume(two.any(-1).all())
    assert intents.cosines(*two) == pytest.approx(1 - other(*two), **NEAR)


answer_words = st.sampled_from(["the", "a", "Paris", "paris,", "in", "U.S.", "us", "“x”", "x", "-", "\u00a0", "an-d"])
spoken = st.one_of(st.lists(answer_words, max_size=5).map(" ".join), st.text(max_size=6))


@some
@given(st.lists(st.tuples(spoken, st.lists(spoken, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_squad_is_torchmetrics(rows):
    other = pytest.importorskip("torchmetrics.functional.text").squad
    found = other(
        [{"prediction_text": said, "id": str(i)} for i, (said, _) in enumerate(rows)],
        [{"answers": {"answer_start": [0], "text": golds}, "id": str(i)} for i, (_, golds) in enumerate(rows)],
    )
    ours = {
        name: np.mean([ask(*row) for row in rows])
        for name, ask in (("exact_match", passages.exact), ("f1", passages.token_f1))
    }
    assert ours == pytest.approx({name: float(share) / 100 for name, share in found.items()}, **NEAR)


# on a scale of hundredths, so that nothing lies on a whole number's grid and little is a tie
settings_of_models = st.builds(
    Point, st.integers(1, 2000).map(lambda i: i / 100), st.integers(-500, 500).map(lambda i: i / 100)
)
curves = st.lists(settings_of_models, min_size=1, max_size=8)


@given(curves, st.integers(1, 2500).map(lambda i: i / 100), st.integers(-600, 500).map(lambda i: i / 100))
def test_hypervolume_is_the_sum_of_the_cells_between_all_points(points, cost_max, metric_min):
    x = sorted({0.0, cost_max, *(one.cost for one in points if one.cost < cost_max)})
    y = sorted({metric_min, *(one.metric for one in points if one.metric > metric_min)})
    area = 0.0
    for left, end in pairwise(x):
        for low, high in pairwise(y):
            if any(one.cost <= left and one.metric >= high for one in points):
                area += (end - left) * (high - low)
    assert hypervolume(points, cost_max, metric_min) == pytest.approx(area, **NEAR)


@some
@given(curves, curves, st.integers(-500, 500).map(lambda i: i / 100))
def test_curves_are_scipys_interpolation(points, others, metric):
    interpolate = pytest.importorskip("scipy.interpolate").interp1d
    best = front(points)
    if len(best) > 1:
        line = interpolate([one.metric for one in best], [one.cost for one in best])
        found = cost_at(points, metric)
        if best[0].metric <= metric <= best[-1].metric:
            assert found == pytest.approx(float(line(metric)), **NEAR)
        else:
            assert found == (best[0].cost if metric < best[0].metric else None)
        held = best[0].metric, best[-1].metric
        line = interpolate([p.cost for p in best], [p.metric for p in best], bounds_error=False, fill_value=held)
        gains = [one.metric - float(line(one.cost)) for one in others]
        assert elue(others, best).score == pytest.approx(np.mean(gains), **NEAR)


SIZES = {
    "bert": {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 80},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 80, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
KINDS = {"bert": "SequenceClassification", "gpt2": "SequenceClassification", "t5": "Seq2SeqLM"}
texts = st.tuples(st.integers(1, 3), st.integers(2, 24))  # (batch, tokens)


@cache
def built(kind):
    """A tiny random model with eager attention: torch's counter knows nothing of the fused one on a CPU."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = transformers.AutoConfig.for_model(kind, vocab_size=50, pad_token_id=0, **SIZES[kind])
    torch.manual_seed(0)
    auto = getattr(transformers, f"AutoModelFor{KINDS[kind]}")
    return auto.from_config(config, attn_implementation="eager").eval()


def batch_of(model, batch, tokens):
    """As many tokens for a decoder as for its encoder."""
    import torch

    ids = torch.full((batch, tokens), 7)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return given | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


def macs_of(model, given):
    import torch

    from gossamer.measure import macs

    with torch.no_grad():
        return macs.count(lambda: model(**given))


def flops_of(model, given):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**given)
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", SIZES)
@few
@given(texts)
def test_multiply_accumulates_are_half_of_torchs_flops(kind, size):
    model = built(kind)
    given = batch_of(model, *size)
    flops = flops_of(model, given)
    assert 2 * macs_of(model, given) == flops
    try:
        model.set_attn_implementation("sdpa")  # costs the same, and torch's counter does not see it
        assert 2 * macs_of(model, given) == flops > flops_of(model, given)
    finally:
        model.set_attn_implementation("eager")


@pytest.mark.parametrize("kind", SIZES)
@few
@given(texts)
def test_multiply_accumulates_are_transformers_estimate_put_right(kind, size):
    """transformers estimates 6 x tokens x parameters outside of the tables: 2 FLOPs for the way there, 4 for back.

    A sixth of it is the multiply-accumulates, but for what it leaves out, products of activations (attention) and a
    head that is the word table; and for what it counts too much: biases and norms, which are no products, and a head
    that reads one token of a text.
    """
    trainer = pytest.importorskip("transformers.trainer").Trainer
    model, (batch, n), width = built(kind), size, 32
    given = batch_of(model, batch, n)
    estimate = trainer.floating_point_ops(SimpleNamespace(model=model), given)
    vectors = sum(one.numel() for one in model.parameters() if one.ndim == 1)
    attention = 2 * n**2 * width * 2  # of two layers; T5 has its decoder's and that from one to the other as well
    more = {
        "bert": attention - (n - 1) * width * (width + model.config.num_labels),  # pooler and classifier: once a text
        "gpt2": attention,
        "t5": 3 * attention + n * width * model.config.vocab_size,
    }
    assert macs_of(model, given) == estimate // 6 + batch * (more[kind] - n * vectors)


@few
@given(texts)
def test_the_closed_forms_are_torchs_flops(size):
    from gossamer.benchmarks.elue import Encoder, costs
    from gossamer.measure import formula

    model, (batch, n) = built("bert"), size
    flops = flops_of(model, batch_of(model, batch, n))
    assert 2 * batch * formula.encoder(model, n) == flops
    encoder = Encoder(layers=2, width=32, inner=80, heads=4, size=8)
    norms, softmaxes = 4 * n * 32 * (2 * 2 + 1), 4 * 4 * n**2 * 2  # which ELUE's counter counts and torch's does not
    assert batch * (costs(encoder, n)[-1] - norms - softmaxes) == flops


@pytest.mark.parametrize("kind", SIZES)
def test_weights_are_transformers_count(kind):
    from gossamer.measure.size import parameters

    assert parameters(built(kind)) == built(kind).num_parameters()
