"""Ways that depend on the text, in stages: who is done leaves, what is dropped is gone, and nobody else notices."""

import numpy as np
import pytest

from gossamer.engines import ENGINES, course, load

ON_GRAPHS = [engine for engine in ENGINES if engine != "torch"]
DEPTH = 3  # layers of `dynamic`


def test_a_stage_for_each_place_where_somebody_may_leave(dynamic):
    stages = {"exits": 1 + 1, "tokens": DEPTH + 1, "exits and tokens": DEPTH + 1 + 1}[dynamic.kind]
    assert [one.name for one in dynamic.written.packed] == [f"stage-{i:02}.onnx" for i in range(stages)]
    assert not (dynamic.folder / "model.onnx").exists() and dynamic.written.agreement == 1
    assert dynamic.written.own < 5000, "weights are those of model.safetensors"


@pytest.mark.parametrize("engine", ON_GRAPHS)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_engine_walks_as_torch_does(dynamic, texts, engine, batch_size):
    from gossamer.engines import torch

    expected = torch.load(dynamic.folder).logits(texts)
    predictor = load(dynamic.folder, engine=engine)
    found = [predictor.logits(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
    assert np.abs(np.concatenate(found) - expected).max() < 1e-4


def executed(folder, texts, monkeypatch):
    """Tokens that each stage was given, padding left out, and the size of its grid."""
    seen, real = [], course.through

    def counted(stages, reads, facts):
        def count(i, stage):
            def run(batch):
                seen.append((i, int((batch["segments"] > 0).sum()), batch["segments"].size))
                return stage(batch)

            return run

        return real([count(i, stage) for i, stage in enumerate(stages)], reads, facts)

    monkeypatch.setattr("gossamer.engines.graphs.through", counted)
    load(folder, engine="onnxruntime").logits(texts)
    totals = {i: [0, 0] for i, _, _ in seen}
    for i, tokens, size in seen:
        totals[i] = [totals[i][0] + tokens, totals[i][1] + size]
    return [totals[i] for i in sorted(totals)]


def test_what_has_left_is_not_computed(dynamic, texts, monkeypatch):
    found = executed(dynamic.folder, texts, monkeypatch)
    tokens = [left for left, _ in found]
    assert tokens == sorted(tokens, reverse=True) and tokens[-1] < 0.8 * tokens[0]
    for left, size in found:
        assert size <= left / course.REPACK * 1.25 + 128, "a grid is hardly larger than what is in it"


def test_as_many_tokens_travel_as_in_torch(dynamic, texts, monkeypatch):
    """Per stage, as many as the masks of torch's own walk leave; `dynamic` alone cannot tell a stage too many."""
    import torch

    from gossamer.runtime import passage

    if dynamic.kind != "tokens":
        pytest.skip("rows leave torch's batch only in eighths")
    kept, real = [], passage.Passage.keep_tokens

    def noting(self, keep):
        real(self, keep)
        kept.append(int(self.valid.sum()))

    monkeypatch.setattr(passage.Passage, "keep_tokens", noting)
    predictor = load(dynamic.folder, engine="onnxruntime")
    with torch.inference_mode():
        for read in predictor.reads(texts):
            dynamic.model(input_ids=torch.tensor([read.ids]), attention_mask=torch.ones(1, len(read.ids)).long())
    by_layer = [sum(kept[layer::DEPTH]) for layer in range(DEPTH)]
    assert [tokens for tokens, _ in executed(dynamic.folder, texts, monkeypatch)][1:] == by_layer


def test_a_text_keeps_its_answer_whoever_leaves_beside_it(dynamic, texts):
    predictor = load(dynamic.folder, engine="onnxruntime")
    alone = np.concatenate([predictor.logits([text]) for text in texts])
    order = np.random.default_rng(1).permutation(len(texts))
    assert np.abs(predictor.logits([texts[i] for i in order]) - alone[order]).max() < 1e-5
