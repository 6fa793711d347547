"""Multiply-accumulates, counted where they are computed.

One multiply-accumulate (MAC) is two FLOPs.  The counter sits under the dispatcher and sees every product that really
runs, so layers that were cut, tokens that were dropped and examples that left early are counted as what they did, and
not as what a formula about the configuration says.  Look-ups, norms, activations and softmax count as zero, as in the
closed form of an encoder layer, 4nH^2 + 2n^2H + 2nHI.  Attention counts whole, with a causal mask or without.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .sample import chosen, spread
from .subject import Answers

Formula = Callable[[Sequence[Any], Any], int]  # (arguments, output) -> multiply-accumulates


def product(left: int) -> Formula:
    """Each number put out is a sum over the last dimension of the left operand, which is argument `left`."""
    return lambda args, out: int(out.numel() * args[left].shape[-1])


def attention(args: Sequence[Any], out: Any) -> int:
    """q (B, heads, T, d), k (B, heads or fewer, S, d), v (.., S, e): T * S * (d + e) for each query head."""
    query, key, value = args[:3]
    return int(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * (query.shape[3] + value.shape[3]))


def convolution(args: Sequence[Any], out: Any) -> int:
    """Weight (out, in / groups, *kernel); transposed, (in, out / groups, *kernel)."""
    x, weight = args[:2]
    return int((x if args[6] else out).numel() * weight[0].numel())


def recurrence(args: Sequence[Any], out: Any) -> int:
    """Every token meets both weight matrices of the layer."""
    x, inputs, state = args[:3]
    return int(x.numel() // x.shape[-1] * (inputs.numel() + state.numel()))


def trilinear(args: Sequence[Any], out: Any) -> int:
    """A sum of products of three: of the first two over all that they span, then of the result with the third.

    torch gives each operand dimensions of 1 (arguments 3 to 5) until all have the same, and sums over those of 6.
    """

    def wide(i: int) -> list[int]:
        sizes = iter(args[i].shape)
        return [1 if d in args[i + 3] else next(sizes) for d in range(args[i].dim() + len(args[i + 3]))]

    first, second, third = map(wide, range(3))
    both = [max(pair) for pair in zip(first, second, strict=True)]
    left = [1 if d in args[6] and third[d] == 1 else size for d, size in enumerate(both)]
    return prod(both) + prod(max(pair) for pair in zip(left, third, strict=True))


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::linear"), product(0)),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addmv", "aten::_addmm_activation"), product(1)),
    **dict.fromkeys(("aten::addmm_", "aten::baddbmm_", "aten::addmv_"), product(1)),
    **dict.fromkeys(("aten::_int_mm", "aten::_scaled_mm", "aten::_weight_int8pack_mm"), product(0)),
    **dict.fromkeys(("aten::_weight_int4pack_mm_for_cpu", "aten::_dyn_quant_matmul_4bit"), product(0)),
    **dict.fromkeys(("aten::mkldnn_linear", "mkldnn::_linear_pointwise", "mkl::_mkl_linear"), product(0)),
    **dict.fromkeys(("quantized::linear", "quantized::linear_relu", "quantized::linear_dynamic"), product(0)),
    **dict.fromkeys(("quantized::linear_relu_dynamic", "onednn::qlinear_pointwise"), product(0)),
    **dict.fromkeys(
        (
            "aten::_scaled_dot_product_flash_attention_for_cpu",  # the one torch's own counter knows nothing of
            "aten::_scaled_dot_product_flash_attention",
            "aten::_scaled_dot_product_efficient_attention",
            "aten::_scaled_dot_product_cudnn_attention",
        ),
        attention,
    ),
    **dict.fromkeys(("aten::convolution", "aten::_convolution"), convolution),
    "aten::mkldnn_rnn_layer": recurrence,
    "aten::_trilinear": trilinear,
}
PRODUCT_LIKE = re.compile(
    r"(?:^|_)(?:add|badd|addb)?b?mm(?:_|$)|matmul|(?:^|_)q?linear(?:_|$)|(?:^|_)conv(?!ert)\w*|attention|einsum"
    r"|(?:^|_)(?:lstm|gru|rnn)(?:_|$)"
)
NO_PRODUCT = re.compile(r"prepack|unpack|reorder|convert|upsample")


class Counter(TorchDispatchMode):
    """Adds up the multiply-accumulates of this thread, and notes products it has no formula for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]  # "aten::mm.out" -> "aten::mm"
        formula = FORMULAS.get(name)
        if formula is None and (found := by_parts(self, func, args, kwargs)) is not NotImplemented:
            return found
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(args, out if isinstance(out, Tensor) else out[0])
        elif PRODUCT_LIKE.search(word := name.split("::")[-1]) and not NO_PRODUCT.search(word):
            self.unknown.add(name)
        return out


_WHOLE = set[Any]()  # operators that were found to have no parts


def by_parts(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives that is made of others, each of which the mode sees; NotImplemented of any other.

    Under inference_mode, matmul and its like arrive whole.
    """
    if func in _WHOLE:
        return NotImplemented
    with mode:
        found = func.decompose(*args, **kwargs) if isinstance(func, torch._ops.OpOverload) else NotImplemented
    if found is NotImplemented:
        _WHOLE.add(func)
    return found


def count(call: Callable[[], object]) -> int:
    """The multiply-accumulates of one call, whatever it computes with torch in this thread.

    Raises ValueError for a product without a formula: a silent zero would be a lie.
    """
    counter = Counter()
    with _slow_path(), counter:
        call()
    if counter.unknown:
        raise ValueError(
            f"no formula for {', '.join(sorted(counter.unknown))}: expected one of {len(FORMULAS)} known products; "
            "add it to gossamer.measure.macs.FORMULAS"
        )
    return counter.total


def per_example(
    model: Answers, texts: Sequence[str], pairs: Sequence[str] | None = None, examples: int | None = None
) -> list[int]:
    """The multiply-accumulates of each text on its own, at its true length: no padding, no batch mates.

    model: a predictor that runs in torch, in this thread.  examples: how many, evenly spread over the texts; None: all.
    Raises ValueError when a text cost nothing, which means that the model does not run in torch.
    """
    rows = spread(len(texts), len(texts) if examples is None else min(examples, len(texts)))
    costs = []
    for row in rows:
        text, pair = chosen(texts, pairs, [row])
        costs.append(count(lambda text=text, pair=pair: model.logits(text, pair, batch_size=1)))  # type: ignore[misc]
    if not costs or not min(costs):
        raise ValueError(f"no multiply-accumulates in {len(costs)} examples; expected a predictor that runs in torch")
    return costs


def average(
    model: Answers, texts: Sequence[str], pairs: Sequence[str] | None = None, examples: int | None = 200
) -> float:
    """The mean of `per_example`: for a model that exits early or drops tokens, the cost over real inputs."""
    return fmean(per_example(model, texts, pairs, examples))


def batched(
    model: Answers,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    batch_size: int = 32,
    examples: int | None = 200,
) -> float:
    """The mean for each text where they come in batches, at the cost of padding, and of rows that wait for others.

    The texts that `per_example` chooses are handed over in their order; how they are batched is the predictor's affair.
    Raises ValueError when they cost nothing, as `per_example` does.
    """
    rows = spread(len(texts), len(texts) if examples is None else min(examples, len(texts)))
    some, others = chosen(texts, pairs, rows)
    total = count(lambda: model.logits(some, others, batch_size=batch_size))
    if not total:
        raise ValueError(f"no multiply-accumulates in {len(rows)} examples; expected a predictor that runs in torch")
    return total / len(rows)


@contextmanager
def _slow_path() -> Iterator[None]:
    """torch's fused encoder layer, which hides its products, off for a while."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
