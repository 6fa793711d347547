"""What an encoder should cost by arithmetic, to hold the counter of gossamer.measure.macs against, and for searches.

A layer with matrices of in x out costs n times the sum of in * out, and its attention n^2 times the width of all
queries and all values: for a whole BERT layer 4nH^2 + 2nHI + 2n^2H.  Read off the modules that are there, so it holds
for heads and neurons that were cut unevenly, for low-rank pairs and for layers that play several times.
"""

from typing import Any

from torch import nn

from gossamer.anatomy import answer, blocks, embeddings, shape
from gossamer.runtime.modules import LowRank, NoAttention, Nothing
from gossamer.walking import order


def encoder(model: nn.Module, tokens: int) -> int:
    """The multiply-accumulates of a text of `tokens` through a classifier's layers, its embeddings and its head.

    Raises:
        ValueError: a family of two towers, whose cost depends on what it writes.
    """
    if len({block.tower for block in blocks(model)}) > 1:
        raise ValueError("the cost of an encoder with a decoder depends on what it writes; count it with macs.count")
    return sum(layers(model, tokens)) + _embeddings(model, tokens) + _head(model)


def layers(model: nn.Module, tokens: int) -> list[int]:
    """The multiply-accumulates of a text of `tokens` in each layer, in the order in which they play."""
    stored = blocks(model)
    return [layer(stored[i], tokens) for i in order(model)]


def layer(block: Any, tokens: int, after: int | None = None) -> int:
    """The multiply-accumulates of one layer; after: how many tokens are left once its attention is done (None: all)."""
    forward = [block.layer.get_submodule(path) for p in ("up", "down", "gate") if (path := block.path(p)) is not None]
    attention = sum(_matrix(module) for module in block.matrices if module not in forward) * tokens
    linear = attention + sum(map(_matrix, forward)) * (tokens if after is None else after)
    if isinstance(block.part("attend"), NoAttention) or isinstance(block.part("o"), Nothing):
        return linear
    return linear + tokens**2 * (shape(block.q)[1] + shape(block.v)[1])


def _matrix(module: nn.Module) -> int:
    """Products for one token."""
    if isinstance(module, LowRank):
        return _matrix(module.down) + _matrix(module.up)
    if isinstance(module, (Nothing, nn.Identity)):
        return 0
    inside, outside = shape(module)
    return inside * outside


def _embeddings(model: nn.Module, tokens: int) -> int:
    """A projection from a narrower table (ELECTRA, ALBERT)."""
    inside = {id(m) for block in blocks(model) for m in block.layer.modules()}
    table = embeddings(model).word
    narrow = shape(table)[1]
    found = [
        m for m in model.modules()
        if isinstance(m, nn.Linear) and id(m) not in inside and m.in_features == narrow != m.out_features
    ]  # fmt: skip
    return tokens * sum(m.in_features * m.out_features for m in found if m is not answer(model))


def _head(model: nn.Module) -> int:
    """What reads the first token alone: every Linear outside of the layers that is as wide as they are."""
    inside = {id(m) for block in blocks(model) for m in block.layer.modules()}
    width = shape(blocks(model)[0].q)[0]
    return sum(
        m.in_features * m.out_features
        for m in model.modules()
        if isinstance(m, nn.Linear) and id(m) not in inside and m.in_features == width
    )
