"""What differs between a compressed model and the blank one that its config describes: say it, and replay it."""

import inspect
from typing import Any

import torch
from torch import nn

from .attention import use
from .exits import Exits
from .modules import (
    AttentionRounding,
    InputRounding,
    IntEmbedding,
    IntLinear,
    LowRank,
    NoAttention,
    Nothing,
    ScoreAttention,
    TernaryEmbedding,
    TernaryLinear,
)
from .tokens import Policy, Ranked
from .trigrams import Trigrams
from .walks import Shared, Stack, TokenThreshold, install

Description = dict[str, Any]
# what attention modules of some families remember of their own shape, and must be told after heads have left
COUNTS = (
    "num_attention_heads", "num_heads", "n_heads", "all_head_size", "split_size", "inner_dim", "num_key_value_groups"
)  # fmt: skip

PARTS: dict[str, type[nn.Module]] = {
    part.__name__: part
    for part in (
        AttentionRounding, Exits, InputRounding, IntEmbedding, IntLinear, LowRank, NoAttention, Nothing,
        Policy, Ranked, ScoreAttention, Shared, TernaryEmbedding, TernaryLinear, TokenThreshold, Trigrams,
    )
}  # fmt: skip


def describe(module: nn.Module) -> Description | None:
    """How to build this module again, empty: its class and constructor arguments; None if it is not one of ours."""
    if type(module) is nn.Linear:
        return {
            "is": "Linear",
            "in_features": module.in_features,
            "out_features": module.out_features,
            "bias": module.bias is not None,
        }
    if type(module) is nn.Embedding:
        return {
            "is": "Embedding",
            "num_embeddings": module.num_embeddings,
            "embedding_dim": module.embedding_dim,
            "padding_idx": module.padding_idx,
        }
    if type(module) is nn.LayerNorm:
        return {
            "is": "LayerNorm",
            "normalized_shape": list(module.normalized_shape),
            "eps": module.eps,
            "bias": module.bias is not None,
        }
    if type(module) is nn.Identity:
        return {"is": "Identity"}
    if type(module).__name__ not in PARTS:
        return None
    names = list(inspect.signature(type(module).__init__).parameters)[1:]
    return {"is": type(module).__name__, **{name: getattr(module, name) for name in names}}


def build(description: Description) -> nn.Module:
    """The inverse of `describe`.

    Raises:
        ValueError: the description names a part that this version does not know.
    """
    kind, arguments = description["is"], {k: v for k, v in description.items() if k != "is"}
    plain = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Identity)
    known = {part.__name__: part for part in plain} | PARTS
    if kind not in known:
        raise ValueError(
            f"this artefact contains a {kind!r}, which this version does not know (known: {', '.join(sorted(known))}); "
            "upgrade with: pip install --upgrade gossamer"
        )
    return known[kind](**arguments)


def plain_class(model: nn.Module) -> type[nn.Module]:
    """The architecture's own class, also for a model that was revived from an artefact."""
    return getattr(type(model), "revived_from", type(model))


def changes(model: nn.Module) -> dict[str, Description]:
    """Every module that the plain config would have built otherwise, outermost first, by its path.

    The blank model is brought up to date as we go, so that a change inside a change is seen too.
    """
    with torch.device("meta"):
        blank: nn.Module = plain_class(model)(model.config)
    found: dict[str, Description] = {}
    for path, module in model.named_modules():
        if isinstance(module, Stack):
            walks = [describe(walk) for walk in module.walking]
            found[path] = {"walks": walks, "layers": len(module), "midpoint": module.midpoint}
            replay(blank, {path: found[path]})
            continue
        description = describe(module)
        try:
            old = blank.get_submodule(path)
        except AttributeError:
            old = None
        counts = {n: v for n in COUNTS if (v := getattr(module, n, None)) != getattr(old, n, None)}
        if description is None:
            if counts and old is not None:
                found[f"{path}#"] = {"counts": counts}
            continue
        before = None if old is None else describe(old)
        if description != before:
            found[path] = description
            with torch.device("meta"):
                replay(blank, {path: description})
    return found


def replay(model: nn.Module, found: dict[str, Description]) -> nn.Module:
    """Turn the blank model that the config describes into the one that was saved; the weights come afterwards."""
    for path, description in found.items():
        if "walks" in description:
            stored = list(model.get_submodule(path).children())[: description["layers"]]
            model.set_submodule(path, Stack(stored, midpoint=description["midpoint"]))
            for walk in description["walks"]:
                install(model, path, build(walk))  # type: ignore[arg-type]
            continue
        if "counts" in description:
            for name, count in description["counts"].items():
                setattr(model.get_submodule(path.rstrip("#")), name, count)
            continue
        part = build(description)
        if isinstance(part, Trigrams):
            part.grow(model, path)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, part)
        if getattr(part, "needs_attention", False):
            use(model)
    return model
