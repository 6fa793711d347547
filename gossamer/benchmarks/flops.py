"""FLOPs as ELUE counts them, of whatever really runs.

ELUE's counter takes twice the multiply-accumulates and calls more than products so: scaling and softmax take one each
for every number of an attention map, a norm takes two for every number that it puts out (`elue.layer_flops`).  A curve
of `elue.costs` and a submission count alike only if both have these terms, so they are counted here where they run.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gossamer.measure import macs
from gossamer.measure.sample import chosen, spread
from gossamer.measure.subject import Answers

SOFTMAXES = ("aten::_softmax", "aten::_safe_softmax")
NORMS = ("aten::native_layer_norm", "aten::_fused_rms_norm")
FUSED = tuple(name for name, formula in macs.FORMULAS.items() if formula is macs.attention)


class Beside(TorchDispatchMode):
    """Adds up what ELUE counts as multiply-accumulates beside those of products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        if name not in (*SOFTMAXES, *NORMS, *FUSED):
            found = macs.by_parts(self, func, args, kwargs)
            if found is not NotImplemented:
                return found
        out = func(*args, **kwargs)
        first = out if isinstance(out, Tensor) else out[0] if isinstance(out, (tuple, list)) and out else None
        if name in FUSED:  # (B, heads, T, d) against (B, heads, S, d)
            query, key = args[:2]
            self.total += 2 * query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
        elif (name in SOFTMAXES and isinstance(first, Tensor) and first.ndim == 4) or (
            name in NORMS and isinstance(first, Tensor)
        ):  # an attention map, no answer
            self.total += 2 * first.numel()
        return out


def count(call: Callable[[], object]) -> int:
    """The FLOPs of one call by ELUE's counter.

    Raises ValueError for a product without a formula, as `gossamer.measure.macs.count` does.
    """
    beside = Beside()

    def watched() -> None:
        with beside:
            call()

    products = macs.count(watched)
    return 2 * (products + beside.total)


def average(
    model: Answers, texts: Sequence[str], pairs: Sequence[str] | None = None, examples: int | None = None
) -> float:
    """The mean FLOPs of a text on its own, at its true length.

    model: a predictor that runs in torch, in this thread.  examples: how many, evenly spread over the texts; None: all.
    Raises ValueError when a text cost nothing, which means that the model does not run in torch.
    """
    costs = []
    for row in spread(len(texts), len(texts) if examples is None else min(examples, len(texts))):
        some, others = chosen(texts, pairs, [row])
        costs.append(count(lambda some=some, others=others: model.logits(some, others, batch_size=1)))  # type: ignore[misc]
    if not costs or not min(costs):
        raise ValueError(f"no FLOPs in {len(costs)} examples; expected a predictor that runs in torch")
    return fmean(costs)
