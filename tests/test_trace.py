"""What a trace holds equals what the model itself says, for every family; and nothing of the tracing remains."""

from typing import Any

import pytest
import torch
from tiny import FAMILIES, VARIANTS, batch, build, offers
from torch import Tensor, nn

from gossamer.anatomy import blocks, layers, loop
from gossamer.runtime.attention import NAME
from gossamer.runtime.walks import Shared, Stack
from gossamer.trace import Trace, tracing

EVERY = [*FAMILIES, *VARIANTS]
FINAL_NORM = {"gpt2": "ln_f", "modernbert": "final_norm", "t5": "final_layer_norm", "pegasus": "layer_norm"}
FINAL_NORM |= dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), "norm")


def towers(trace: Trace) -> list[Trace]:
    return [trace] + ([trace.decoder] if trace.decoder is not None else [])


def said(out: Any, what: str) -> list[Any]:
    """The output's hidden states or attentions, by tower."""
    return [out["encoder_" + what], out["decoder_" + what]] if "encoder_" + what in out else [out[what]]


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=atol)


def settings(model: nn.Module) -> list[Any]:
    """All that tracing could leave behind."""
    found: list[Any] = []
    for module in model.modules():
        found += [len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks")]
        found += ["forward" in vars(module), getattr(getattr(module, "config", None), "_attn_implementation", None)]
        found += [sorted(vars(module))]
    return found


@pytest.mark.parametrize("name", EVERY)
def test_hidden_states_are_the_models_own(name: str) -> None:
    model, depth = build(name), 4 if name == "albert, two groups" else 2
    given = batch(model)
    with torch.no_grad():
        plain = model(**given, output_hidden_states=True)
        with tracing(model) as trace:
            out = model(**given)
    assert trace.out is out and close(out.last_hidden_state, plain.last_hidden_state, 0)
    for tower, states in zip(towers(trace), said(plain, "hidden_states"), strict=True):
        assert len(tower.hidden) == depth + 1 == len(states)
        for mine, own in zip(tower.hidden[:-1], states[:-1], strict=True):
            assert close(mine, own, 0)
        norm = FINAL_NORM.get(name.split(",")[0])
        if norm is None:
            assert close(tower.hidden[-1], states[-1], 0)
        else:
            side = "decoder" if tower is trace.decoder else "encoder"
            normed = getattr(getattr(model, side, model), norm)(tower.hidden[-1])
            final = out.encoder_last_hidden_state if trace.decoder and tower is trace else out.last_hidden_state
            assert close(normed, final, 1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_attention_is_the_models_own(name: str) -> None:
    model, depth = build(name), 4 if name == "albert, two groups" else 2
    eager = build(name, attn="eager")
    given = batch(model)
    with torch.no_grad():
        own = eager(**given, output_attentions=True)
        plain = model(**given)
        with tracing(model, attention=True) as trace:
            out = model(**given)
    real = given.get("decoder_attention_mask", given["attention_mask"]).bool()
    assert close(out.last_hidden_state[real], plain.last_hidden_state[real])  # padding that sees nothing is nobody's
    attentions = said(own, "attentions")
    for tower, expected in zip(towers(trace), attentions, strict=True):
        assert len(tower.heard) == depth == len(tower.hidden) - 1 == len(expected)
        for heard, probs in zip(tower.heard, expected, strict=True):
            assert heard.probs.shape == heard.scores.shape == probs.shape == (2, 4, *probs.shape[-2:])
            assert heard.query.shape[:2] == heard.key.shape[:2] == heard.value.shape[:2] == (2, 4)
            mask = 0 if heard.mask is None else heard.mask
            assert close((heard.scores + mask).softmax(-1), probs) and close(heard.probs, probs)
    if trace.decoder is not None:
        assert not trace.crossed and len(trace.decoder.crossed) == depth
        for heard, probs in zip(trace.decoder.crossed, own.cross_attentions, strict=True):
            assert close(heard.probs, probs) and close((heard.scores + heard.mask).softmax(-1), probs)


@pytest.mark.parametrize("name", EVERY)
def test_who_was_heard(name: str) -> None:
    """In the order in which they ran."""
    model = build(name)
    with torch.no_grad(), tracing(model, attention=True) as trace:
        model(**batch(model))
    for i, tower in enumerate(towers(trace)):
        attends = [b.attend for b in blocks(model, i)]
        expected = attends * 2 if name == "albert" else attends
        assert [h.module for h in tower.heard] == expected
        assert [h.module for h in tower.crossed] == [b.cross.attend for b in blocks(model, i) if b.cross is not None]


@pytest.mark.parametrize("name", EVERY)
def test_scores_of_padding_are_zero(name: str) -> None:
    """And where a family's mask hides a real token; everything that is seen stays as it is."""
    model = build(name)
    with torch.no_grad(), tracing(model, attention=True) as trace:
        model(**batch(model))
    for tower in towers(trace):
        assert tower.mask is not None
        for layer, (scores, heard) in enumerate(zip(tower.scores, tower.heard, strict=True)):
            real = (tower.mask[:, None, :, None] & tower.mask[:, None, None, :]).expand_as(scores)
            assert float(scores[~real].abs().sum()) == 0
            at = torch.arange(scores.shape[-1])
            ahead = at[None] - at[:, None]  # (query, key)
            causal = name in ("gpt2", "llama", "qwen2", "qwen3", "mistral") or tower is trace.decoder
            near = torch.ones_like(ahead, dtype=torch.bool)
            near = near & (ahead <= 0) if causal else near
            near = near & (ahead > -3) if name == "mistral" else near
            near = near & (ahead.abs() <= 2) if name == "modernbert" and layer == 1 else near
            seen = real & near
            assert torch.equal(scores[seen], heard.scores[seen]) and float(scores[~seen].abs().sum()) == 0
            assert bool((scores[seen] != 0).all())


@pytest.mark.parametrize("name", ["bert", "bart", "t5", "gpt2", "mpnet", "deberta-v2"])
def test_without_padding(name: str) -> None:
    """No mask was given: all is seen, and the trace says so."""
    model = build(name)
    given = {k: v[:1, :3] for k, v in batch(model).items() if not k.endswith("mask")}
    eager = build(name, attn="eager")
    with torch.no_grad(), tracing(model, attention=True) as trace:
        model(**given)
    own = eager(**given, output_attentions=True)
    for tower, expected in zip(towers(trace), said(own, "attentions"), strict=True):
        assert tower.mask is not None and tower.mask.shape == (1, 3) and bool(tower.mask.all())
        assert all(close(h.probs, p) for h, p in zip(tower.heard, expected, strict=True))
        if name not in ("gpt2",) and tower is trace:
            assert all(torch.equal(s, h.scores) for s, h in zip(tower.scores, tower.heard, strict=True))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("attention", [False, True])
def test_nothing_is_left_behind(name: str, attention: bool) -> None:
    model = build(name, "classes" if offers(name, "classes") else "seq2seq")
    before, given = settings(model), batch(model)
    with torch.no_grad():
        plain = model(**given).logits
        with tracing(model, attention=attention) as trace:
            traced = model(**given).logits
            assert settings(model) != before
        assert settings(model) == before and close(traced, plain)
        kept = len(trace.hidden)
        assert close(model(**given).logits, plain, 0) and len(trace.hidden) == kept
    with pytest.raises(RuntimeError, match="stop"), tracing(model, attention=attention):
        raise RuntimeError("stop")
    assert settings(model) == before
    hook = blocks(model)[0].down.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), tracing(model, attention=attention):
        model(**given)
    hook.remove()
    assert settings(model) == before


def test_the_setting_that_was_there_comes_back() -> None:
    model = build("bert", attn="eager")
    with tracing(model, attention=True):
        assert model.config._attn_implementation == NAME
        with tracing(model, attention=True):
            pass
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "eager"


def test_an_unknown_family_is_refused_before_anything_is_touched() -> None:
    with pytest.raises(ValueError, match="no anatomy for model_type None"), tracing(nn.Linear(2, 2)):
        pass


def test_each_call_starts_anew() -> None:
    model = build("bert", "classes")
    with torch.no_grad(), tracing(model, attention=True) as trace:
        model(**batch(model))
        first = trace.hidden
        model(**batch(model, seed=1))
    assert len(first) == len(trace.hidden) == 3 and len(trace.heard) == 2
    assert not torch.equal(first[0], trace.hidden[0])


def test_teacher_and_student_side_by_side() -> None:
    teacher, student = build("bert", seed=1), build("roberta", num_hidden_layers=3)
    with torch.no_grad(), tracing(teacher, attention=True) as t, tracing(student, attention=True) as s:
        teacher(**batch(teacher))
        student(**batch(student))
    assert (len(t.heard), len(t.hidden), len(s.heard), len(s.hidden)) == (2, 3, 3, 4)
    assert {h.module for h in t.heard} == {b.attend for b in blocks(teacher)}


def test_the_mask_is_found_by_name_or_by_place() -> None:
    model = build("bert")
    given = batch(model)
    with torch.no_grad(), tracing(model) as trace:
        model(given["input_ids"], given["attention_mask"])
    assert trace.mask is not None and torch.equal(trace.mask, given["attention_mask"].bool())


def test_mask_alone() -> None:
    model = build("bert")
    with torch.no_grad(), tracing(model, hidden=False) as trace:
        model(batch(model)["input_ids"])
    assert trace.hidden == [] and trace.mask is not None and trace.mask.shape == (2, 7)


@pytest.mark.parametrize(("ran", "n", "expected"), [
    (12, 4, [3, 6, 9, 12]), (12, 12, list(range(1, 13))), (6, 1, [6]), (12, 5, [2, 5, 7, 10, 12]), (7, 2, [4, 7]),
    (5, 2, [3, 5]), (3, 2, [2, 3]),
])  # fmt: skip
def test_every(ran: int, n: int, expected: list[int]) -> None:
    trace = Trace(hidden=[torch.tensor(float(i)) for i in range(ran + 1)])
    assert [int(x) for x in trace.every(n)] == expected


def test_every_refuses() -> None:
    trace = Trace(hidden=[torch.zeros(1)] * 3)
    for n in (0, 3):
        with pytest.raises(ValueError, match=f"asked for {n} evenly spaced layers where 2 ran; ask for 1 to 2"):
            trace.every(n)


def test_gradients_flow_through_what_was_heard() -> None:
    """Distillation reads scores and hidden states while training, dropout and all."""
    for name in ("bert", "mpnet", "deberta-v2", "t5"):
        model = build(name, hidden_dropout_prob=0.0).train()
        with tracing(model, attention=True) as trace:
            model(**batch(model))
        (trace.scores[-1].pow(2).mean() + trace.hidden[-1].pow(2).mean()).backward()
        assert all(float(b.q.weight.grad.abs().sum()) > 0 for b in blocks(model, 0))


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_checkpointed_layers_are_told_of_once(name: str) -> None:
    model = build(name).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with tracing(model, attention=True) as trace:
        out = model(**batch(model))
        out.last_hidden_state.sum().backward()
        assert len(trace.hidden) == 3 and len(trace.heard) == 2


def test_by_executed_layer() -> None:
    """Two stored layers that play at five positions are five layers."""
    model = build("bert")
    model.set_submodule(loop(model), Stack(list(layers(model)), [Shared([0, 0, 1, 1, 0])]))
    with torch.no_grad(), tracing(model, attention=True) as trace:
        out = model(**batch(model))
    assert len(trace.hidden) == 6 and len(trace.heard) == 5
    assert close(trace.hidden[-1], out.last_hidden_state, 0)
    first, second = (b.attend for b in blocks(model))
    assert [h.module for h in trace.heard] == [first, first, second, second, first]
