"""Letting a walk walk a model's layers: where the loop is, where tokens may leave, and which families allow it."""

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

from torch import nn

from gossamer.anatomy import blocks, loop, towers
from gossamer.anatomy import head as head_of
from gossamer.anatomy import width as stream_width
from gossamer.runtime.criteria import CRITERIA
from gossamer.runtime.exits import Exits
from gossamer.runtime.heads import HEADS
from gossamer.runtime.walks import Stack, Walk, install

# Families whose layers hand each other more than hidden states, so that their loop cannot be owned from outside.
BOUND = {
    "albert": "calls its layers by number",
    "modernbert": "chooses masks and rotations by layer",
    "t5": "passes position biases from layer to layer",
}
# Families whose classifier reads the first token and whose attention is heard while running.
BY_EXAMPLE = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")


def own(model: nn.Module, name: str) -> None:
    """Raise ValueError, for whoever has this name, if the loop over the model's layers cannot be owned from outside."""
    family = str(model.config.model_type)  # type: ignore[union-attr]
    convolution = any(isinstance(m, nn.Conv1d) for m in model.modules())
    if family in BOUND or len(towers(model)) > 1 or convolution:
        reason = BOUND.get(family, "has two loops" if len(towers(model)) > 1 else "convolves after its first layer")
        raise ValueError(
            f"{name} needs to own the loop over the layers, and {family} {reason}; "
            f"use it on one of: {', '.join(BY_EXAMPLE)}"
        )


def walk(model: nn.Module, way: Walk, stored: list[nn.Module] | None = None) -> None:
    """Install a walk; `stored`, when given, takes the place of the model's layers.

    Raises:
        ValueError: the family's loop cannot be owned, rows and tokens cannot leave it, or another walk is in the way.
    """
    family, name = str(model.config.model_type), type(way).__name__  # type: ignore[union-attr]
    own(model, name)
    if way.dynamic and (family not in BY_EXAMPLE or getattr(model.config, "is_decoder", False)):
        raise ValueError(
            f"{name} lets rows or tokens leave on the way, and gossamer does not do that for {family}; "
            f"use it on one of: {', '.join(BY_EXAMPLE)}"
        )
    if getattr(model.config, "use_cache", None):
        model.config.use_cache = False  # type: ignore[union-attr]  # a layer that plays twice has no cache of its own
    first = blocks(model)[0]
    midpoint = (first.path("sublayer") or "") if first.post_norm else ""
    install(model, loop(model), way, stored, midpoint)


def twin(layer: nn.Module, model: nn.Module) -> nn.Module:
    """A copy of one of the model's layers that goes on listening to the model's own config."""
    config: Any = model.config
    return deepcopy(layer, {id(config): config})


def order(model: nn.Module) -> list[int]:
    """Which stored layer plays at each step: all in turn, unless layers are shared."""
    stored, config = len(blocks(model, 0)), cast(Any, model.config)
    if config.model_type == "albert":  # its few layers, again and again
        steps = config.num_hidden_layers
        return [i * stored // steps for i in range(steps)]
    stack = model.get_submodule(loop(model)) if len(towers(model)) == 1 else None
    return stack.order if isinstance(stack, Stack) else list(range(stored))


def depth(model: nn.Module) -> int:
    """How many layers an example passes: more than are stored where they are shared."""
    return len(order(model))


def features(model: nn.Module) -> tuple[list[str], int, int]:
    """How the head reads hidden states: its steps, the width that its last linear reads, the number of answers.

    Raises:
        ValueError: the model has no head that reads the first token.
    """
    found = head_of(model)
    answer = found.answer
    steps = found.steps
    if steps[:1] != ["first"] and not (len(steps) == 1 and steps[0].endswith("pooler")):
        raise ValueError(
            f"the head of {type(model).__name__} does not read the first token (it reads {steps}); "
            "early exits need a sequence classifier such as AutoModelForSequenceClassification gives"
        )
    return steps, int(answer.in_features), int(answer.out_features)  # type: ignore[arg-type]


def able_to_stop(model: nn.Module, owner: str, field: str, found: float, spare: int) -> None:
    """Raise ValueError, for whoever has this name, unless `spare` layers more than `found` leave something to save."""
    layers = depth(model)
    if found > layers - spare:
        raise ValueError(
            f"found {layers} layers and {field} {found:g}: no example could stop before the end; "
            f"type {owner}({field}={max(1, layers - spare)}) or less, on a model of at least {1 + spare} layers"
        )


def exits(
    model: nn.Module,
    head: dict[str, Any],
    criterion: dict[str, Any],
    threshold: float,
    places: Sequence[int] | None = None,
    pool: str = "first",
) -> Exits:
    """Install exits of this head and criterion, which see gossamer.runtime.exits, and return them.

    head, criterion: what they are, and what cannot be read off the model; the rest is added.  places: after which
    layers (None: after all but the last).  pool: what stands for a text, its "first" token or the "mean" of all.

    Raises:
        ValueError: the model's head does not read the first token, or its loop cannot be owned.
    """
    steps, pooled, labels = features(model)
    layers = depth(model)
    where = list(range(1, layers)) if places is None else sorted(places)
    hidden = pooled if head["is"] == "SharedPooler" else stream_width(model)  # what the exits' own layers read
    known = {"width": hidden, "labels": labels, "count": len(where), "features": steps, "places": where}
    size = head.get("size") or hidden
    seen = known | {"size": size, "width": size}  # what a criterion reads
    found = Exits(
        layers, where, _told(HEADS, head, known), _told(CRITERIA, criterion, seen), threshold, steps,
        head_of(model).answer_path, pool,
    )  # fmt: skip
    for module in found.heads.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(std=0.02)
            if module.bias is not None:
                module.bias.data.zero_()
    walk(model, found)
    return found


def pooler(model: nn.Module) -> nn.Linear | None:
    """The square linear layer through which the model's head reads the first token, if it has one."""
    for step in features(model)[0]:
        inner = model.get_submodule(step) if "." in step or hasattr(model, step) else None
        for module in inner.modules() if inner is not None else ():
            if type(module) is nn.Linear and module.in_features == module.out_features:
                return module
    return None


def _told(kinds: Mapping[str, type], said: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What a part is, with everything that it asks for."""
    asked = inspect.signature(kinds[said["is"]].__init__).parameters  # type: ignore[misc]
    return {name: value for name, value in known.items() if name in asked} | said
