from collections import Counter

import pytest
import tiny
import torch
from torch import nn

from gossamer import engines, walking
from gossamer.engines import GRAPH, export, graphs, integers, stages
from gossamer.runtime import modules, walks

# What counts layers of families whose layers are alike: one is enough.
ALIKE = {
    **dict.fromkeys(("electra", "deberta-v2", "xlm-roberta"), "num_hidden_layers"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), "num_hidden_layers"),
    "distilbert": "n_layers",
    "gpt2": "n_layer",
}


def operators(folder):
    import onnx

    return Counter(node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node)


def test_a_compressed_bert(artefact):
    found, written = operators(artefact.folder), artefact.written
    layers = 3 * 6 + 1 + 1  # q k v o up down, one of them as two, and the pooler
    assert found["MatMulIntegerToFloat"] == layers
    assert found["QuantizeLinear"] == layers - 3 * 2, "q, k and v share their rounded input"
    assert found["Gather"] == 3 * 2 + 4 + 1, (
        "codes and scales of three tables; a row of q, of x twice, of the mask; the token"
    )
    assert written.difference < 1e-5 and written.agreement == 1
    assert written.file == artefact.folder / "model.onnx" and not list(artefact.folder.glob("*.partial"))


def test_weights_are_stored_once(artefact):
    weights = (artefact.folder / "model.safetensors").stat().st_size
    assert artefact.written.shared > 0.7 * weights and artefact.written.own < 2000
    assert b"/site-packages/" not in artefact.written.file.read_bytes(), "no path of whoever wrote it"


def test_the_model_is_left_as_it_was(artefact):
    assert not any("forward" in vars(module) for module in artefact.model.modules())
    assert not artefact.model.training and artefact.model.config._attn_implementation == "sdpa"


def test_a_plain_regression(tmp_path, tokenizer):
    model = tiny.build("roberta", "classes", num_labels=1, problem_type="regression")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    written = export.write(model, tokenizer, tmp_path, probes=["w1 w2"])
    assert written.difference < 1e-5 and written.tolerance < 1e-3 and written.own < 4000
    assert not graphs.fits(tmp_path / GRAPH), "nothing was said of products that are not there"
    model = engines.load(tmp_path)
    assert model.name == "onnxruntime" and model.labels is None
    (one,) = model(["the best of films"])
    assert list(one) == ["value"]
    assert one["value"] == pytest.approx(engines.load(tmp_path, "torch")(["the best of films"])[0]["value"], abs=1e-5)


@torch.no_grad()
def ternary(model, bits=8):
    """Every Linear and the word table in two bits, activations and attention rounded between bounds that were seen."""
    draw = torch.Generator().manual_seed(0)

    def codes(*size):
        return modules.pack(torch.randint(-1, 2, size, generator=draw))

    for path, linear in list(model.named_modules()):
        if type(linear) is nn.Linear:
            new = modules.TernaryLinear(linear.in_features, linear.out_features, linear.bias is not None, bits)
            new.packed.copy_(codes(linear.out_features, linear.in_features))
            new.scale.fill_(0.2)
            new.bias.copy_(linear.bias)
            model.set_submodule(path, new)
    word = modules.TernaryEmbedding(50, 32)
    word.packed.copy_(codes(50, 32))
    model.bert.embeddings.word_embeddings = word
    model.bert.encoder.layer[0].attention.self.rounding = modules.AttentionRounding(bits)
    model.config._attn_implementation = "gossamer"
    for rounding in model.modules():
        if isinstance(rounding, modules.InputRounding):
            rounding.low.fill_(-3.1)
            rounding.high.fill_(4.2)
    return model


def test_two_bits_and_bounds(tmp_path, save, tokenizer):
    model = ternary(tiny.build("bert", "classes", num_hidden_layers=1))
    folder = save(model, tmp_path / "ternary")
    written = export.write(model, tokenizer, folder)
    assert written.difference < 1e-5
    found = operators(folder)
    assert found["MatMulIntegerToFloat"] == 8, "q k v o up down, pooler, classifier"
    assert graphs.fits(folder / GRAPH)


def test_shared_layers_and_narrow_scores(tmp_path, save, tokenizer, rounded):
    torch.manual_seed(1)  # of eight draws two had an activation halfway between two integers, which falls either way
    model = tiny.build("bert", "classes")
    attend = modules.ScoreAttention(["query", "key", "value"], 32, 4, 4, 8, 8**-0.5, 0.1)
    model.bert.encoder.layer[0].attention.self = attend
    stored = [model.bert.encoder.layer[0]]
    walks.install(model, "bert.encoder.layer", walks.Shared([0, 0, 0]), stored)
    model = rounded(model).eval()
    folder = save(model, tmp_path / "shared")
    written = export.write(model, tokenizer, folder)
    assert written.difference < 1e-5
    assert operators(folder)["MatMulIntegerToFloat"] == 3 * 6 + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [f for f in tiny.FAMILIES if tiny.offers(f, "classes") and f not in ("bert", "roberta")]
)
def test_every_family(family, tmp_path, save, tokenizer, rounded):
    leave = ("classifier", "rel_embeddings", "relative_attention_bias")  # tables of which the weight itself is read
    depth = {ALIKE[family]: 1} if family in ALIKE else {}
    model = rounded(tiny.build(family, "classes", **depth), leave)
    folder = save(model, tmp_path / "family")
    written = export.write(model, tokenizer, folder)
    assert written.difference <= written.tolerance and written.agreement == 1
    assert operators(folder)["MatMulIntegerToFloat"] >= 1


def test_thresholds_of_the_first_artefacts_are_refused(tmp_path, save, tokenizer):
    model = tiny.build("bert", "classes")
    walking.walk(model, walks.TokenThreshold(2))
    folder = save(model, tmp_path / "walk")
    with pytest.raises(ValueError, match="TokenThreshold measures by the length of each text"):
        export.write(model, tokenizer, folder)
    assert not list(folder.glob("*.onnx*"))


def test_what_no_graph_can_be_made_of_is_said(tmp_path, save, tokenizer):
    model = tiny.build("bert", "classes")
    with pytest.raises(ValueError, match=r"has no config.json; save the model and its tokenizer there first"):
        export.write(model, tokenizer, tmp_path)
    folder = save(model, tmp_path / "half")
    with pytest.raises(ValueError, match=r"is torch.bfloat16, expected torch.float32; type model.float\(\)"):
        export.write(model.bfloat16(), tokenizer, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model.safetensors; save the model there first"):
        export.write(model.float(), tokenizer, folder)


def test_missing_packages_are_named(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(export, "installed", lambda package: None)
    with pytest.raises(ImportError, match=r'writing a graph needs onnx; type: pip install "gossamer\[export\]"'):
        export.write(tiny.build("bert", "classes"), tokenizer, tmp_path)


def test_another_tokenizer_is_refused(tmp_path, save, raw):
    from transformers import PreTrainedTokenizerFast

    model = tiny.build("bert", "classes")
    folder = save(model, tmp_path / "two")
    raw.post_processor = None
    other = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")
    with pytest.raises(ValueError, match=r"the tokenizer and .*tokenizer.json read .* differently"):
        export.write(model, other, folder)


def test_a_graph_that_answers_otherwise_is_refused(artefact, tmp_path, save, tokenizer, monkeypatch):
    folder = save(artefact.model, tmp_path / "wrong")

    def once(packed, known):  # the program that a hasty exporter would have made
        import onnx_ir

        program = onnx_ir.load(artefact.folder / "model.onnx")
        for node in program.graph:
            if node.op_type == "LayerNormalization":
                node.attributes["epsilon"] = onnx_ir.AttrFloat32("epsilon", 0.5)
        return program

    monkeypatch.setattr(stages, "padded", once)
    with pytest.raises(ValueError, match=r"the graph's logits differ from the model's by .* no graph was written"):
        export.write(artefact.model, tokenizer, folder)
    assert not list(folder.glob("model.onnx*"))


def test_the_second_exporter_steps_in(tmp_path, save, tokenizer, monkeypatch):
    model = tiny.build("mpnet", "classes", num_hidden_layers=1)  # whose texts cannot be packed
    folder = save(model, tmp_path / "fallback")
    asked = []

    def broken(*given, **more):
        asked.append(1)
        raise KeyError("experimental")

    for name in ("stage-00.onnx", "stage-01.onnx", "packed.onnx", "alone.onnx"):
        (folder / name).write_text("of another model")
    monkeypatch.setattr(export, "by_transformers", broken)
    assert export.write(model, tokenizer, folder).difference < 1e-5 and len(asked) == 2
    assert graphs.carried(folder) == [folder / GRAPH], "older ones would be run in its place"
    monkeypatch.setattr(export, "by_torch", broken)
    with pytest.raises(
        RuntimeError, match=r'no exporter can express this model; it runs with engine="torch" \(KeyError'
    ):
        export.write(model, tokenizer, folder)
    assert not graphs.carried(folder)


@torch.no_grad()
def test_smooth_forwards_do_all_but_round():
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    linear = nn.Linear(32, 8)
    scale = linear.weight.abs().amax(1, keepdim=True) / 127
    model = nn.Sequential(modules.IntLinear.of(linear, (linear.weight / scale).round(), scale), modules.InputRounding())
    model[1].low.fill_(-9)
    model[1].high.fill_(9)
    before = model(x)
    with integers.forwards(model, integers.SMOOTH):
        assert torch.allclose(model(x), linear(x), atol=0.02) and not torch.equal(model(x), before)
    assert torch.equal(model(x), before) and integers.rounds(model) and not integers.rounds(linear)
