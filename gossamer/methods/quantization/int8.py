"""Q8BERT: Quantized 8Bit BERT (Zafrir, Boudoukh, Izsak & Wasserblat, EMC2 at NeurIPS 2019), without its training.

Every Linear becomes 8-bit integers with one scale per output row, and its inputs are rounded: as they come (dynamic),
or between bounds that are found beforehand on some texts (static).  The paper's dynamic baseline takes one activation
scale per tensor; here it is one per token, so that an answer never depends on its batch mates (and is closer to fp32).
Embedding tables are rounded too, one scale per row.  Softmax, norms, biases stay in fp32.

The scale of a row of weights is the paper's, max|w| / 127, with two weights side by side counted together where they
have one sign: about a third larger, and exact with the quick products of x86 without VNNI (see gossamer.forms.Rounded;
others round weights to seven bits for that, which makes it twice as large).

Static bounds are those that change the products of the layer least, on the texts looked at: the whole range that was
seen, or a part of it.  Features of very different sizes share one scale then; they are first evened out at the weights'
expense (SmoothQuant, Xiao et al., ICML 2023, eq. 4) where that halves the squared error of the products, for it costs a
pass over the activations.  How much goes to the weights (alpha) is 0.5 in the paper, for language models; encoders want
more, and not every layer the same, so each layer has its own here.  What rounding adds to a product on average is
taken from its bias (empirical bias correction, Nagel et al., ICCV 2019, appendix D), for inputs as they are in fp32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gossamer.calibrate import Inputs, inputs
from gossamer.fields import Between
from gossamer.forms import Rounded, attach, bound_input, settle
from gossamer.job import Job
from gossamer.train import Train

PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the range seen, that bounds are tried at
ALPHAS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
WORTH = 0.5  # of the squared error is left, or less, where features are evened out


class Bounds(NamedTuple):
    """Bounds of activations, (), and what each feature is multiplied by before, (in,) or None."""

    low: Tensor
    high: Tensor
    share: Tensor | None


@dataclass(frozen=True)
class Int8:
    """Int8; nothing to train, so nothing to yield.  static: one scale of activations for all tokens, found beforehand.

    migration: alpha of SmoothQuant, where evening out is worth it: one for all layers, 0 for never, None for an own one
    of each layer; samples: texts looked at.  Both count only if static.
    """

    rows: ClassVar[tuple[str, ...]] = ("dynamic_int8",)
    kind: ClassVar[str] = "settle"

    embeddings: bool = True
    static: bool = False
    migration: Annotated[float, Between(0.0, 1.0)] | None = None
    samples: Annotated[int, Between(8, 100_000)] = 256

    def __call__(self, job: Job) -> Iterator[Train]:
        """Round every Linear, and every table."""
        kinds = (nn.Linear, nn.Embedding) if self.embeddings else (nn.Linear,)
        word, decoder = job.model.get_input_embeddings(), job.model.get_output_embeddings()
        tied = decoder is not None and decoder.weight is word.weight  # a language model's: both stay as they are
        kept = {id(word), id(decoder)} if tied else set()
        found = [m for m in job.model.modules() if type(m) in kinds and id(m) not in kept]
        if not found:
            raise ValueError("every Linear of this model is already settled, so Int8 finds nothing to do; leave it out")
        if self.static:
            self.bind(job, [m for m in found if isinstance(m, nn.Linear)])
        for module in found:
            attach(module, Rounded(8, paired=isinstance(module, nn.Linear)))
        settle(job.model)
        yield from ()

    def bind(self, job: Job, linears: list[nn.Linear]) -> None:
        """Find the bounds of what these are given."""
        groups = inputs(job.model, linears, job.batches(self.samples))
        for i, group in enumerate(groups):
            job.tell("finding bounds of activations", i / len(groups))
            together = [linears[place] for place in group.linears]
            found = bounds(group, together, self.migration)
            [wrong] = errors(torch.cat(group.some), together, [found])
            for linear, its in zip(together, wrong, strict=True):
                bound_input(linear, found.low, found.high, found.share)
                if linear.bias is not None:
                    linear.bias.data -= its.mean(1)


@torch.no_grad()
def bounds(group: Inputs, linears: Sequence[nn.Linear], migration: float | None) -> Bounds:
    """Those that change the products of the linears least; features are evened out where that is worth it."""
    x = torch.cat(group.some)
    alphas = ALPHAS if migration is None else (migration,) if migration else ()

    def least(share: Tensor | None, parts: Sequence[float] = PARTS) -> tuple[float, Bounds]:
        """The squared error, and the bounds that have it."""
        evened = 1.0 if share is None else share
        lowest, highest = (group.low * evened).min().clamp(max=0), (group.high * evened).max().clamp(min=0)
        tried = [Bounds(lowest * part, highest * part, share) for part in parts]
        squares = [sum(its.square().sum().item() for its in wrong) for wrong in errors(x, linears, tried)]
        return min(squares), tried[squares.index(min(squares))]

    error, best = least(None)
    tried = [least(smooth(group, linears, alpha), PARTS[:1]) for alpha in alphas]
    if tried:
        less, evened = least(min(tried, key=lambda one: one[0])[1].share)
        best = evened if less < WORTH * error else best
    return best


@torch.no_grad()
def errors(x: Tensor, linears: Sequence[nn.Linear], tried: Sequence[Bounds]) -> Iterator[list[Tensor]]:
    """Of each of these bounds, which have one share: how far each linear's products are from those of x, (out, n).

    x: (n, in).
    """
    share = tried[0].share
    wanted = [linear.weight @ x.T for linear in linears]
    weights = [Rounded(8, paired=True)(linear.weight if share is None else linear.weight / share) for linear in linears]
    x = x if share is None else x * share
    for found in tried:
        step = ((found.high - found.low) / 255).clamp_min(1e-8)
        rounded = (x.clamp(found.low, found.high) / step).round() * step
        yield [weight @ rounded.T - y for weight, y in zip(weights, wanted, strict=True)]


def smooth(group: Inputs, linears: Sequence[nn.Linear], migration: float) -> Tensor:
    """1 / s with s = max|x|^a / max|w|^(1 - a) for each feature; (in,)."""
    seen = group.low.abs().maximum(group.high.abs()).clamp_min(1e-5)
    weights = torch.stack([linear.weight.abs().amax(0) for linear in linears]).amax(0).clamp_min(1e-5)
    return (weights ** (1 - migration) / seen**migration).clamp(1e-5, 1e5)
