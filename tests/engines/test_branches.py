"""One graph for one text: its answers are those of the stages, and what it does not need is not computed."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from gossamer.engines import ENGINES, graphs, load
from gossamer.engines.texts import facts
from gossamer.task import Read

ON_GRAPHS = [engine for engine in ENGINES if engine != "torch"]


def products(graph):
    """How many matrix products a graph holds, without its branches."""
    return sum(node.op_type in ("MatMul", "Gemm", "Attention") for node in graph)


def branches(graph):
    """The two sides of each If on the way to the end."""
    for node in graph:
        if node.op_type == "If":
            ready, rest = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
            yield ready, rest
            yield from branches(rest)


def stages(folder):
    return [ir.load(file).graph for file in sorted(folder.glob(graphs.STAGES))]


def test_a_text_that_has_its_answer_takes_a_branch_with_nothing_in_it(dynamic):
    whole, parts = ir.load(dynamic.folder / graphs.ALONE).graph, stages(dynamic.folder)
    found = list(branches(whole))
    assert len(found) == sum("done" in [value.name for value in part.outputs] for part in parts)
    assert all(products(ready) == 0 and products(rest) > 0 for ready, rest in found)
    assert products(whole) + sum(products(rest) for _, rest in found) == sum(map(products, parts))


@pytest.mark.parametrize("engine", ON_GRAPHS)
def test_it_answers_as_the_stages_do(dynamic, texts, engine, tmp_path):
    together = load(dynamic.folder, engine).logits(texts)
    found = np.concatenate([load(dynamic.folder, engine).logits([text]) for text in texts[:4]])
    predictor = load(dynamic.folder, engine)
    found = np.concatenate([found, *(predictor.logits([text]) for text in texts[4:])])
    assert np.abs(found - together).max() < 1e-4


def ran(folder, predictor, text, tmp_path):
    """How many products were computed for a text."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / graphs.ALONE), options, providers=["CPUExecutionProvider"])

    def program(batch):
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(names, {k.name: batch[k.name] for k in session.get_inputs()}), strict=True))

    [read] = predictor.reads([text])
    said = graphs.single(program, read, predictor.facts)
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [one for one in events if one.get("cat") == "Node" and one["name"].endswith("_kernel_time")]
    return said, sum(one["args"]["op_name"] in ("MatMul", "Gemm", "Attention") for one in kernels)


def test_what_it_does_not_need_is_not_computed(dynamic, texts, tmp_path):
    if "exits" not in dynamic.kind:
        pytest.skip("every layer is needed where nobody has an answer before the end")
    whole = ir.load(dynamic.folder / graphs.ALONE).graph
    until = np.cumsum([products(whole), *(products(rest) for _, rest in branches(whole))])
    predictor = load(dynamic.folder, "onnxruntime")
    counts = {ran(dynamic.folder, predictor, text, tmp_path)[1] for text in texts[:12]}
    assert counts <= set(until.tolist()) and len(counts) > 1, "some texts leave at an exit, others go on"


@pytest.mark.parametrize("engine", ON_GRAPHS)
def test_the_threshold_is_the_callers(dynamic, texts, engine):
    if "exits" not in dynamic.kind:
        pytest.skip("there is no threshold without exits")
    never, always = (load(dynamic.folder, engine, threshold=one) for one in (1e6, -1e6))
    one, other = (np.concatenate([model.logits([text]) for text in texts]) for model in (never, always))
    assert np.abs(one - never.logits(texts)).max() < 1e-4 and np.abs(other - always.logits(texts)).max() < 1e-4
    assert np.abs(one - other).max() > 1e-3


def test_artefacts_without_it_answer_by_their_stages(dynamic, texts, tmp_path):
    import shutil

    older = shutil.copytree(dynamic.folder, tmp_path / "older")
    (older / graphs.ALONE).unlink()
    assert facts(older).task.per_text
    expected = load(dynamic.folder, "onnxruntime").logits(texts[:3])
    assert np.abs(load(older, "onnxruntime").logits(texts[:1]) - expected[:1]).max() < 1e-5


def test_whoever_opens_it_sees_that_it_is_for_one_text(dynamic):
    import onnx

    onnx.checker.check_model(str(dynamic.folder / graphs.ALONE))
    whole = ir.load(dynamic.folder / graphs.ALONE).graph
    assert {value.shape[0] for value in whole.inputs if value.shape} == {1}
    assert [len(value.shape) for value in whole.outputs] == [2]


def test_nobody_asked_has_no_answers(dynamic):
    assert list(load(dynamic.folder, "onnxruntime").answers([], [])) == []


@pytest.mark.parametrize("engine", ON_GRAPHS)
def test_memory_goes_through_stages_that_do_not_change_it(engine, walked, save, tokenizer, texts, tmp_path):
    from gossamer.engines import export, torch

    folder = save(walked("exits and tokens", 4), tmp_path / "four")
    export.write(walked("exits and tokens", 4), tokenizer, folder)
    expected = torch.load(folder).logits(texts[:12])
    predictor = load(folder, engine)
    assert np.abs(predictor.logits(texts[:12]) - expected).max() < 1e-4
    assert np.abs(np.concatenate([predictor.logits([text]) for text in texts[:12]]) - expected).max() < 1e-4


def test_care_is_taken_away_from_graphs_of_ours_alone(dynamic, tmp_path):
    import shutil

    from gossamer.engines import openvino

    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "_attending", lambda model: opened.append(model) or model)
        openvino.program(dynamic.folder / graphs.ALONE)
        assert not opened, "a folder without our manifest may hold anybody's graph"
        ours = shutil.copytree(dynamic.folder, tmp_path / "ours")
        (ours / "manifest.json").write_text("{}")
        openvino.program(ours / graphs.ALONE)
    assert len(opened) == 1


def threshold(width):
    from gossamer.runtime import walks

    return walks.TokenThreshold(4, 0.06, length=20)


def policy(width):
    from gossamer.runtime.tokens import Policy

    return Policy(4, width, [0, 2], 8)


def ranks(width):
    from gossamer.runtime.tokens import Ranked

    return Ranked(4, [1.0, 0.6, 0.6, 0.3])


@pytest.fixture(
    scope="module",
    params=[("bert", "tokens", threshold), ("bert", "spans", threshold), ("roberta", "tokens", policy),
            ("bert", "base", ranks)],
    ids=lambda told: "-".join([*told[:2], told[2].__name__]),
)  # fmt: skip
def answering(request, save, tokenizer, tmp_path_factory):
    """An artefact that answers for each token, some of which leave on the way."""
    import tiny
    import torch

    from gossamer import walking
    from gossamer.engines import export

    family, kind, walk = request.param
    torch.manual_seed(0)
    model = tiny.build(family, kind, num_hidden_layers=4).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3 * (weight.dim() > 1))
    walking.walk(model, walk(model.config.hidden_size))
    folder = save(model, tmp_path_factory.mktemp(kind))
    export.write(model, tokenizer, folder)
    return folder


def said_of(predictor, read):
    """What is said of each token of one text, by one way or the other."""
    [(_, outputs)] = predictor.pack([read])
    return np.stack([one[0] for one in outputs])


@pytest.mark.parametrize("engine", ON_GRAPHS)
def test_each_token_is_answered_for_as_it_was_when_it_left(answering, texts, engine, tmp_path):
    import shutil

    import onnx

    onnx.checker.check_model(str(answering / graphs.ALONE))
    stages_alone = shutil.copytree(answering, tmp_path / "older")
    (stages_alone / graphs.ALONE).unlink()
    ours, others = load(answering, engine), load(stages_alone, engine)
    pairs = [texts[2]] * len(texts) if ours.task.stride else None
    for read in [Read([1], [0], False), *ours.reads(texts, pairs)[:14]]:
        one, other = said_of(ours, read), said_of(others, read)
        assert one.shape == other.shape and one.shape[1] == len(read.ids)
        assert np.abs(one - other).max() < 1e-4
    assert not any(isinstance(value.shape[1], int) for value in ir.load(answering / graphs.ALONE).graph.outputs)
