"""Every door of every family: that it exists, that it opens onto the right part, and that none is missing."""

from typing import Any

import pytest
import torch
from tiny import FAMILIES, KINDS, VARIANTS, batch, build, config, offers
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertForSequenceClassification, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

import gossamer.anatomy as anatomy
from gossamer.anatomy import Block, Slice, blocks, shape

EVERY = [*FAMILIES, *VARIANTS]
HEADED = [(f, k) for f in FAMILIES for k in KINDS if k != "base" and offers(f, k)]
PRE_NORM = {"modernbert", "gpt2", "llama", "qwen2", "qwen3", "mistral", "t5", "pegasus"}


class Factored(nn.Module):
    """Two matrices in place of one; t5 asks its `wo` for a weight before it calls it."""

    weight = None

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inner, outer
        self.down, self.up = nn.Linear(inner, 3), nn.Linear(3, outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class Settled(nn.Module):
    """No plain linear any more."""

    weight = None

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inner, outer
        self.register_buffer("codes", torch.ones(outer, inner, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.codes.float().t() / 100


def linears_of(layer: nn.Module) -> set[nn.Module]:
    return {m for m in layer.modules() if isinstance(m, nn.Linear | Conv1D)}


def last(model: nn.Module) -> Tensor:
    """(B, T, d): the last hidden states of a base model."""
    with torch.no_grad():
        return model(**batch(model)).last_hidden_state


def test_the_tests_cover_every_family() -> None:
    assert set(FAMILIES) == set(anatomy.FAMILIES)


@pytest.mark.parametrize("name", EVERY)
def test_doors_and_shapes(name: str) -> None:
    model = build(name)
    family, grouped = name.split(",")[0], name in ("llama", "qwen2", "qwen3", "mistral")
    towers = anatomy.towers(model)
    assert len(towers) == (2 if model.config.is_encoder_decoder else 1)
    stored = blocks(model)
    assert len(stored) == {"albert": 1, "albert, two groups": 4}.get(name, 2 * len(towers))
    each = len(stored) // len(towers)
    assert [(b.tower, b.index) for b in stored] == [(t, i) for t in range(len(towers)) for i in range(each)]
    for block in stored:
        assert block.post_norm is (family not in PRE_NORM)
        assert (block.heads, block.head_dim, block.kv_heads) == (4, 8, 2 if grouped else 4)
        sides = {"q": (32, 32), "o": (32, 32), "up": (32, 64), "down": (64, 32)}
        sides |= dict.fromkeys("kv", (32, 16 if grouped else 32))
        gated = grouped or name in ("modernbert", "t5, gated")
        sides |= {"gate": (32, 64)} if gated else {}
        assert {part: shape(block.part(part)) for part in block.parts} == sides
        assert (block.gate is not None) is gated
        assert not any(isinstance(m, nn.Identity) for m in block.norms)
        first_of_modernbert = name == "modernbert" and block.index == 0
        assert len(block.norms) == 2 + (block.cross is not None) - first_of_modernbert
        assert (block.sublayer is block.norms[0]) if block.post_norm else block.sublayer is None
        assert (block.cross is not None) is (block.tower == 1)
        if block.cross is not None:
            assert block.cross.parts == ("q", "k", "v", "o") and block.cross.attend is not block.attend
            assert {shape(block.cross.part(p)) for p in "qkvo"} == {(32, 32)} and block.cross.heads == 4
            assert block.cross.norms == (block.norms[1],) and block.cross.q is not block.q
        assert set(block.linears) == linears_of(block.layer) and len(block.linears) == len(set(block.linears))
        assert block.recount() == {}
    assert anatomy.width(model) == 32


@pytest.mark.parametrize("name", [n for n in EVERY if n != "albert, two groups"])
@pytest.mark.parametrize("kind", ["base", "classes"])
def test_the_loop_is_where_the_layers_are(name: str, kind: str) -> None:
    if not offers(name, kind):
        kind = "seq2seq"
    model = build(name, kind)
    for tower, _ in enumerate(anatomy.towers(model)):
        listed = anatomy.layers(model, tower)
        assert listed is model.get_submodule(anatomy.loop(model, tower))
        assert [b.layer for b in blocks(model, tower)] == list(listed)


def test_layers_in_several_lists_cannot_be_one_loop() -> None:
    with pytest.raises(ValueError, match=r"keeps its layers in 2 lists: encoder.albert_layer_groups.0.albert_layers, "):
        anatomy.loop(build("albert, two groups"))


@pytest.mark.parametrize("name", EVERY)
def test_embeddings(name: str) -> None:
    model = build(name)
    for tower, path in enumerate(anatomy.towers(model)):
        front, inside = anatomy.embeddings(model, tower), set(model.get_submodule(path).modules())
        tables = [front.word, front.position, front.token_type]
        assert all(m is None or (isinstance(m, nn.Embedding) and m in inside) for m in tables)
        assert front.word.weight is model.get_input_embeddings().weight
        layered = {m for b in blocks(model) for m in b.layer.modules()}
        beside = {anatomy.relative(model, tower), getattr(getattr(model, "encoder", None), "rel_embeddings", None)}
        others = {m for m in inside if isinstance(m, nn.Embedding)} - layered - beside
        assert others == {m for m in tables if m is not None}  # no table is missing
        assert shape(front.word)[1] == (16 if name.split(",")[0] in ("electra", "albert") or "conv" in name else 32)
        assert (shape(front.projection) == (16, 32)) if front.projection is not None else shape(front.word)[1] == 32


@pytest.mark.parametrize("name", EVERY)
def test_put(name: str) -> None:
    model = build(name)
    before = last(model)
    for block in blocks(model):
        for view in [block] + ([block.cross] if block.cross is not None else []):
            for part in view.parts:
                whole = view.layer.get_submodule(view.path(part))
                if isinstance(whole, Factored):
                    continue  # a shared matrix, already replaced
                new = Factored(*shape(whole))
                view.put(part, new, whole=part in view.fused)
                assert view.layer.get_submodule(view.path(part)) is new
                found = view.part(part)
                assert (found.module if isinstance(found, Slice) else found) is new
                assert {new.down, new.up} < set(block.linears)
        assert (block.heads, block.head_dim) == (4, 8)
    after = last(model)
    assert torch.isfinite(after).all() and not torch.allclose(before, after)
    for block in blocks(model):
        block.put("down", Settled(64, 32))
        assert not any(m in block.linears for m in block.down.modules())
    assert torch.isfinite(last(model)).all() and anatomy.width(model) == 32


def test_put_refuses_rows_of_a_shared_matrix_and_unknown_parts() -> None:
    block = blocks(build("gpt2"))[1]
    with pytest.raises(ValueError, match=r"'k' of Block\(.*\) is some rows of attn.c_attn, which holds k, q, v; "):
        block.put("k", nn.Linear(32, 32))
    with pytest.raises(ValueError, match="has no part 'gate'; it has q, k, v, o, up, down"):
        block.put("gate", nn.Linear(32, 64))
    with pytest.raises(AttributeError, match="a Block has no 'query'; its parts are attend, q, k, v"):
        _ = block.query


@pytest.mark.parametrize("name", ["gpt2", "modernbert"])
def test_slices_are_views(name: str) -> None:
    block = blocks(build(name))[1]
    whole = block.q.module
    x = torch.randn(2, 32)
    assert block.fused == ({"q", "k", "v"} if name == "gpt2" else {"q", "k", "v", "up", "gate"})
    assert torch.equal(torch.cat([block.q(x), block.k(x), block.v(x)], -1), whole(x))
    assert block.k.weight.shape == (32, 32) and (block.k.start, block.k.stop) == (32, 64)
    bias = 0 if block.k.bias is None else block.k.bias
    assert torch.allclose(x @ block.k.weight.t() + bias, block.k(x), atol=1e-6)
    with torch.no_grad():
        block.k.weight[3] = 7
    assert torch.equal(block.k.weight[3], torch.full((32,), 7.0))
    assert int((whole.weight == 7).sum()) == 32


def test_the_gate_is_what_is_activated() -> None:
    block = blocks(build("modernbert"))[1]
    x = torch.randn(2, 32)
    assert torch.allclose(block.layer.mlp(x), block.down(block.layer.mlp.act(block.gate(x)) * block.up(x)), atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_heads_go_with_everything_that_belongs_to_them(name: str) -> None:
    """Zero what the last group of heads says; cut the group away; the same answers."""
    model = build(name)
    group = blocks(model)[0].heads // blocks(model)[0].kv_heads * 8
    every = [v for b in blocks(model) for v in (b, b.cross) if v is not None]
    with torch.no_grad():
        for view in every:
            read_by_o = view.o.weight.t() if isinstance(view.o, nn.Linear) else view.o.weight
            read_by_o[-group:] = 0
        before = last(model)
        for tower, _ in enumerate(anatomy.towers(model)):
            table = anatomy.relative(model, tower)
            if table is not None:
                table.weight = nn.Parameter(table.weight[:, :-1])
        for view in every:
            for part, lost in (("q", group), ("k", 8), ("v", 8)):
                if part not in view.fused:
                    cut(view.part(part), slice(0, shape(view.part(part))[1] - lost), 0)
            for module in view.by_head:
                cut(module, slice(0, 32 - group), 0)
            for shared in {view.path(p) for p in ("q", "k", "v") if p in view.fused}:
                module = view.layer.get_submodule(shared)
                rows = torch.arange(shape(module)[1]).view(-1, 32)[:, :-8].flatten()
                cut(module, rows, 0)
            cut(view.o, slice(0, 32 - group), 1)
            view.recount()
            assert view.heads == 4 - group // 8 and view.kv_heads == view.heads // (group // 8)
    assert torch.allclose(before, last(model), atol=1e-5)


def cut(module: Any, keep: Any, side: int) -> None:
    """Keep some outputs (side 0) or inputs (side 1) of a linear."""
    outs = side == 0
    along = outs == isinstance(module, nn.Linear)
    module.weight = nn.Parameter(module.weight[keep] if along else module.weight[:, keep])
    if outs and module.bias is not None:
        module.bias = nn.Parameter(module.bias[keep])
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:
        module.nx, module.nf = module.weight.shape


def unnormed(name: str, kind: str) -> tuple[nn.Module, anatomy.Stream]:
    """A model whose norms over the stream are gone, so that no dimension hears of another through them."""
    model = build(name, kind)
    stream = anatomy.stream(model)
    for path, module in list(model.named_modules()):
        if any(module is norm for norm in stream.norms):
            model.set_submodule(path, nn.Identity())
    return model, stream


def states(model: nn.Module) -> tuple[list[Tensor], Any]:
    """What every layer reads and leaves, and the output."""
    seen: list[Tensor] = []
    hooks = []

    def keep(layer: nn.Module, args: Any, out: Any) -> None:
        seen.extend([args[0], out[0] if isinstance(out, tuple) else out])

    for block in blocks(model):
        hooks.append(block.layer.register_forward_hook(keep))
    with torch.no_grad():
        out = model(**batch(model))
    for hook in hooks:
        hook.remove()
    return seen, out


def kinds(name: str) -> str:
    return "classes" if offers(name, "classes") else "seq2seq"


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("headed", [False, True])
def test_the_writers_are_all_who_write(name: str, headed: bool) -> None:
    """With the writers' row 5 and the tables' column 5 zero, nothing is left in dimension 5 of the stream."""
    model, stream = unnormed(name, kinds(name) if headed else "base")
    assert any(float(x[..., 5].abs().max()) > 0.01 for x in states(model)[0])
    with torch.no_grad():
        for writer in stream.writers:
            if isinstance(writer, nn.Embedding | Conv1D):
                writer.weight[:, 5] = 0
            else:
                writer.weight[5] = 0
            if getattr(writer, "bias", None) is not None:
                writer.bias[5] = 0
    assert all(float(x[..., 5].abs().max()) == 0 for x in states(model)[0])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("headed", [False, True])
def test_the_readers_are_all_who_read(name: str, headed: bool) -> None:
    """With the readers' column 5 zero, whatever is in dimension 5 of the stream changes nothing else."""
    model, stream = unnormed(name, kinds(name) if headed else "base")
    with torch.no_grad():
        for reader in stream.readers:
            if isinstance(reader, Conv1D):
                reader.weight[5] = 0
            else:
                reader.weight[:, 5] = 0
        before, first = states(model)
        torch.manual_seed(0)
        for writer in stream.writers:
            if isinstance(writer, nn.Embedding):  # in a tensor of its own: an lm_head tied to the table stays as it is
                writer.weight = nn.Parameter(writer.weight.clone())
                writer.weight[:, 5] += torch.randn(len(writer.weight)) * 3
        for tower, _ in enumerate(anatomy.towers(model)):
            front = anatomy.embeddings(model, tower)
            if front.projection is not None:
                front.projection.weight[5] += 1
        after, second = states(model)
    others = [i for i in range(32) if i != 5]
    assert any(not torch.allclose(a[..., 5], b[..., 5]) for a, b in zip(before, after, strict=True))
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a[..., others], b[..., others], atol=1e-5)
    ends = [k for k in ("logits", "pooler_output") if k in first]
    assert ends or not headed
    assert all(torch.allclose(first[k], second[k], atol=1e-5) for k in ends)


@pytest.mark.parametrize("name", EVERY)
def test_the_norms_are_all_that_normalise_the_stream(name: str) -> None:
    model = build(name, kinds(name))
    stream = anatomy.stream(model)
    wide = {m for m in model.base_model.modules() if "Norm" in type(m).__name__ and tuple(m.weight.shape) == (32,)}
    assert set(stream.norms) == wide
    for group in (stream.readers, stream.writers, stream.norms):
        assert len(group) == len(set(group))


@pytest.mark.parametrize("name", [n for n in EVERY if n.startswith("deberta-v2") and "absolute" not in n])
def test_debertas_table_of_positions_goes_with_the_stream(name: str) -> None:
    """q and k read it too where they are shared, and its width is the model's in any case."""
    model = build(name)
    assert model.encoder.rel_embeddings in anatomy.stream(model).writers
    assert all(set(b.by_head) <= set(anatomy.stream(model).readers) for b in blocks(model))


def follow(model: nn.Module, steps: list[str], x: Tensor, mask: Tensor) -> Tensor:
    """Walk the steps of a head; x: (B, T, d)."""
    for step in steps:
        if step == "first":
            x = x[:, 0]
        elif step == "last":
            x = x[range(len(x)), mask.sum(1) - 1]
        elif step == "mean":
            x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        elif step in ("tanh", "relu", "gelu"):
            x = getattr(torch, step)(x) if step != "gelu" else nn.functional.gelu(x)
        else:
            x = model.get_submodule(step)(x)
    return x


@pytest.mark.parametrize(("name", "kind"), HEADED)
def test_heads(name: str, kind: str) -> None:
    """Following the steps from the last hidden states gives the model's own logits."""
    model = build(name, kind)
    head = anatomy.head(model)
    assert head.answer is model.get_submodule(head.answer_path) and isinstance(head.answer, nn.Linear)
    if kind in ("tokens", "spans", "masked", "causal", "seq2seq"):
        assert not {"first", "last", "mean"} & set(head.steps)
    if kind in ("choice", "pretraining"):
        return
    given = batch(model)
    with torch.no_grad():
        out = model(**given, output_hidden_states=True)
        hidden = out.hidden_states if "hidden_states" in out else out.decoder_hidden_states
        logits = head.answer(follow(model, head.steps, hidden[-1], given["attention_mask"]))
    if name == "t5" and kind == "seq2seq":
        logits = logits * 32**-0.5  # t5 scales the hidden states when the embeddings are tied
    expected = torch.stack([out.start_logits, out.end_logits], -1) if kind == "spans" else out.logits
    assert torch.allclose(logits, expected, atol=1e-4)


def test_modernbert_pools_as_its_config_says() -> None:
    assert anatomy.head(build("modernbert", "classes", classifier_pooling="mean")).steps == ["mean", "head"]
    assert anatomy.head(build("modernbert", "classes", classifier_pooling="cls")).steps == ["first", "head"]
    assert anatomy.head(build("bert", "classes")).steps == ["bert.pooler"]
    assert anatomy.head(build("roberta", "classes")).steps == ["first", "classifier.dense", "tanh"]
    assert anatomy.head(build("distilbert", "classes")).steps == ["first", "pre_classifier", "relu"]


def test_a_base_model_has_no_head() -> None:
    with pytest.raises(ValueError, match="BertModel has no head that gossamer knows; load it with one, such as"):
        anatomy.head(build("bert"))


def test_debertas_other_language_model_head() -> None:
    model = build("deberta-v2", "masked", legacy=False)
    assert anatomy.head(model).answer_path == "deberta.embeddings.word_embeddings"
    assert model.lm_predictions.lm_head.dense in anatomy.stream(model).readers


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "gpt2"])
def test_cross_attention_where_it_is_optional(name: str) -> None:
    own = build(name, "causal", add_cross_attention=True, **({} if name == "gpt2" else {"is_decoder": True}))
    for block in blocks(own):
        assert block.cross is not None and len(block.norms) == 3
        assert {shape(block.cross.part(p)) for p in "qkvo"} == {(32, 32)}
        assert block.cross.o in anatomy.stream(own).writers
        assert set(block.linears) == linears_of(block.layer)


def test_causal_decoders_of_two_towered_families_have_one() -> None:
    for name in ("bart", "marian", "pegasus"):
        model = build(name, "causal", is_encoder_decoder=False)
        assert anatomy.towers(model) == ("model.decoder",) and len(blocks(model)) == 2
        assert anatomy.stream(model).norms and anatomy.width(model) == 32


def test_layers_inside_a_stack() -> None:
    from gossamer.runtime.walks import Stack

    model = build("bert", "classes")
    inside = list(anatomy.layers(model))
    model.set_submodule(anatomy.loop(model), Stack(inside))
    assert isinstance(anatomy.layers(model), Stack)
    assert [b.layer for b in blocks(model)] == inside and anatomy.width(model) == 32


def test_where_no_head_is_left() -> None:
    class Gone(nn.Module):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
            return x, None

    block = blocks(build("bert"))[0]
    block.layer.set_submodule(block.path("attend"), Gone())
    assert (block.heads, block.head_dim, block.kv_heads) == (0, 0, 0)
    assert block.part("q") is None and block.parts == ("o", "up", "down") and len(block.linears) == 3
    with pytest.raises(AttributeError, match="nothing is left of 'q' in Block"):
        _ = block.q


def test_an_unknown_family() -> None:
    class Odd(nn.Module):
        config = PreTrainedConfig()

    Odd.config.model_type = "xlnet"
    with pytest.raises(ValueError) as caught:
        blocks(Odd())
    assert str(caught.value).startswith("no anatomy for model_type 'xlnet'; known: bert, roberta, xlm-roberta, ")
    assert str(caught.value).endswith("pegasus; add one line to gossamer.anatomy.FAMILIES")


def test_a_piece_of_a_model() -> None:
    piece = build("bart", "base").encoder
    with pytest.raises(ValueError, match=r"has no layers at encoder.layers or decoder.layers; pass the whole model"):
        blocks(piece)


def test_a_derived_class_keeps_the_family_of_its_parent() -> None:
    class Other(BertConfig):
        model_type = "something-made-of-bert"

    class Derived(BertForSequenceClassification):
        config_class = Other

    model = Derived(Other(**{k: v for k, v in config("bert").to_dict().items() if k in FAMILIES["bert"]}))
    assert anatomy.family(model) is anatomy.FAMILIES["bert"]
    assert anatomy.head(model).steps == ["bert.pooler"]


def test_shapes_of_what_parts_can_become() -> None:
    assert shape(nn.Linear(3, 5)) == (3, 5) and shape(Conv1D(5, 3)) == (3, 5) and shape(nn.Conv1d(3, 5, 1)) == (3, 5)
    assert shape(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))) == (3, 5) and shape(nn.Embedding(7, 5)) == (7, 5)
    with pytest.raises(ValueError, match="Tanh does not tell its shape: give it in_features and out_features"):
        shape(nn.Tanh())


def test_a_block_names_itself() -> None:
    assert repr(blocks(AutoModel.from_config(config("t5")))[3]) == "Block(T5Block, tower=1, index=1)"
    assert isinstance(blocks(build("bert"))[0], Block)
