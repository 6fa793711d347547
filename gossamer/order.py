"""The order law: rearrange layers, then cut shapes, then factor, then tables in their place, then settle to integers.

Walks that only observe may come any time after the rearranging.  What has been done is read off the model, so the law
holds for recipes and for artefacts that are compressed once more.  Layers of a cut model may still be rearranged where
they can be copied as they are (Theseus); where they would have to be averaged (Share), uneven ones are refused there.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from gossamer.runtime.changes import changes
from gossamer.runtime.modules import IntEmbedding, IntLinear, LowRank, ScoreAttention, TernaryEmbedding, TernaryLinear
from gossamer.runtime.trigrams import trigrams_of
from gossamer.runtime.walks import stack_of

Kind = Literal["tune", "begin", "rearrange", "cut", "factor", "table", "settle", "walk"]
SETTLED = (IntLinear, IntEmbedding, TernaryLinear, TernaryEmbedding)
FACTORED = (LowRank, ScoreAttention)
LAW = "rearrange layers, then cut shapes, then factor, then tables in their place, then settle to integers"


def done(model: nn.Module) -> dict[str, str]:
    """What has been done to a model: kind of method -> what was found of it."""
    found: dict[str, str] = {}
    table = trigrams_of(model)
    inside = [] if table is None else list(table.states.modules())  # are of integers from the beginning
    for kind, parts in (("settle", SETTLED), ("factor", FACTORED)):
        names = sorted({type(m).__name__ for m in model.modules() if isinstance(m, parts) and m not in inside})
        if names:
            found[kind] = ", ".join(names)
    if table is not None:
        found["table"] = type(table).__name__
    stack = stack_of(model)
    if stack is not None:
        found["walk"] = ", ".join(type(w).__name__ for w in stack.walking)
    return found


def allow(model: nn.Module, method: Any, did: Sequence[str] = ()) -> None:
    """Refuse a method that comes too late.  did: the methods that this job has begun before, by name.

    Raises:
        ValueError: what was found, and where the method belongs.
    """
    kind: Kind = method.kind
    name, found = type(method).__name__, done(model)
    late = {
        "rearrange": ("settle", "factor", "table", "walk"),
        "cut": ("settle", "factor", "table"),
        "factor": ("settle", "table"),
        "table": ("settle", "table", "walk"),
    }.get(kind, ())
    for former in late:
        if former in found:
            raise ValueError(
                f"{name} comes too late: the model already holds {found[former]}; put {name} first. "
                f"The order is: {LAW}; walks that only observe come any time after the rearranging"
            )
    if kind == "begin":
        earlier = list(found.values()) or (["changed shapes"] if changes(model) else did[-1:])
        if earlier:
            raise ValueError(
                f"{name} begins a new student, which would lose what was done before (found: "
                f"{', '.join(earlier)}); put {name} first"
            )
