"""Gates: one number per unit (hidden dimension, head, neuron, sublayer); zero means that the unit is gone.

`compact` reads zeros, never methods: whoever made them, it slices them away.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from gossamer.anatomy import Block, blocks, embeddings, relative, stream
from gossamer.block import Slice
from gossamer.forms import Gated, attach
from gossamer.runtime.modules import LowRank, NoAttention, Nothing


class HardConcrete(nn.Module):
    """L0 gates (Louizos, Welling & Kingma, ICLR 2018): sampled while training, decided afterwards.

    s = sigmoid((logit(u) + a) / heat), z = clip(s (high - low) + low, 0, 1).  Afterwards, as in FLOP and CoFi, the
    round(size - sum P(z != 0)) smallest gates are zero and the others sigmoid(0.8 a / heat).
    `draw` takes a new sample u; all uses of the gate within a step see the same one.  `shift` is added to all a where
    it is decided how many stay, and to no gate's value: what stays keeps the scale at which it was trained.
    """

    low, high, heat = -0.1, 1.1, 2 / 3
    bound = math.log(100)  # |a| is held under it
    noise: Tensor
    shift: Tensor

    def __init__(self, size: int, start: float = 10.0) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((size,), start))
        self.register_buffer("noise", torch.full((size,), 0.5))
        self.register_buffer("shift", torch.zeros(()))

    @torch.no_grad()
    def draw(self) -> None:
        """A new sample, and the bound on a."""
        self.log_alpha.clamp_(-self.bound, self.bound)
        self.noise.copy_(torch.rand_like(self.noise).clamp(1e-6, 1 - 1e-6))

    def alive(self) -> Tensor:
        """P(z != 0) per unit, the differentiable count; (size,)."""
        return torch.sigmoid(self.log_alpha + self.shift - self.heat * math.log(-self.low / self.high))

    def forward(self) -> Tensor:
        """The gates z; (size,)."""
        if self.training:
            s = torch.sigmoid((self.log_alpha + self.noise.logit()) / self.heat)
            return (s * (self.high - self.low) + self.low).clamp(0, 1)
        keep = self.log_alpha.argsort(descending=True)[: round(self.alive().sum().item())]
        z = torch.zeros_like(self.log_alpha)
        z[keep] = torch.sigmoid(self.log_alpha[keep] / self.heat * 0.8)
        return z


class PartialNorm(nn.Module):
    """LayerNorm over the dimensions whose gate is open; the others stay zero (CoFi, section 3.1).

    With `gate` the output is scaled by it; once settled, `kept` says which dimensions are left.
    """

    def __init__(self, norm: nn.LayerNorm, gate: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.gate: nn.Module | None = gate
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        if self.gate is None:
            kept, scale = cast(Tensor, self.kept), None
        else:
            scale = self.gate()
            kept = scale > 0
        index = kept.nonzero().squeeze(1)
        bias = None if self.bias is None else self.bias[index]
        small = F.layer_norm(x[..., index], (len(index),), self.weight[index], bias, self.eps)
        if scale is not None:
            small = small * scale[index]
        return torch.zeros_like(x).to(small.dtype).index_copy(-1, index, small)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the gate into weight and bias."""
        assert self.gate is not None
        z = self.gate()
        self.kept, self.gate = z > 0, None
        self.weight = nn.Parameter(self.weight * z)
        self.bias = None if self.bias is None else nn.Parameter(self.bias * z)


def gate_heads(block: Block, gate: nn.Module) -> None:
    """One gate per head, on what the head hands to the output projection (ask `separable` first)."""
    attach(_own(block, "o"), Gated(gate, dim=1, each=block.head_dim))


def gate_neurons(block: Block, gate: nn.Module) -> None:
    """One gate per unit of the feed-forward part, after the activation."""
    attach(_own(block, "down"), Gated(gate, dim=1))


def gate_sublayer(linear: nn.Module, gate: nn.Module) -> None:
    """One gate for all that a sublayer adds to the residual stream, bias included."""
    for name in _tensors(linear):
        attach(linear, Gated(gate, dim=None), name)


def gate_hidden(model: nn.Module, gate: nn.Module) -> None:
    """One gate per dimension of the residual stream: on all that is written to it, and in every norm of it.

    Raises:
        ValueError: the family's norms are not LayerNorms that read the stream after the addition.
    """
    river = stream(model)
    if not all(type(norm) is nn.LayerNorm for norm in river.norms) or not all(b.post_norm for b in blocks(model)):
        raise ValueError(
            "hidden dimensions of this family cannot be gated: its norms are not LayerNorms after each addition; "
            "leave them whole with hidden=False"
        )
    for module in river.writers:
        for name in _tensors(module):
            dim = 0 if name == "bias" or isinstance(module, nn.Linear) else 1
            attach(module, Gated(gate, dim=dim), name)
    places = {id(m): path for path, m in model.named_modules()}
    for norm in river.norms:
        model.set_submodule(places[id(norm)], PartialNorm(cast(nn.LayerNorm, norm), gate))


def _own(block: Block, part: str) -> nn.Module:
    module = block.part(part)
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f"{part!r} of {block!r} is a {type(module).__name__}, and gates need a plain Linear; "
            "cut shapes before factoring or settling to integers, in a family that keeps its matrices apart"
        )
    return module


def _tensors(module: nn.Module) -> list[str]:
    return [name for name in ("weight", "bias") if getattr(module, name, None) is not None]


# --- slicing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """What `compact` sliced away: hidden dimensions that are left (None: all), heads and neurons gone, by block."""

    hidden: Tensor | None
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    def __bool__(self) -> bool:
        return self.hidden is not None or any(self.heads) or any(self.neurons)


def _sizes(module: nn.Module) -> None:
    """Make what a module says of itself agree with its weights."""
    if isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


def take(module: nn.Module, rows: Tensor | None = None, cols: Tensor | None = None) -> None:
    """Keep only some outputs (`rows`) and inputs (`cols`) of a Linear, Conv1D, Embedding, LayerNorm or LowRank."""
    if isinstance(module, LowRank):
        if rows is not None:
            take(module.up, rows=rows)
            module.out_features = len(rows)
        if cols is not None:
            take(module.down, cols=cols)
            module.in_features = len(cols)
        return
    weight = cast(Tensor, module.weight)
    turned = isinstance(module, (Conv1D, nn.Embedding))  # (in, out)
    for index, dim in ((rows, 1 if turned else 0), (cols, 0 if turned else 1)):
        if index is not None:
            weight = weight.index_select(dim if weight.ndim > 1 else 0, index)
    if weight is not module.weight:
        grad = cast(nn.Parameter, module.weight).requires_grad
        module.weight = nn.Parameter(weight.detach().clone(), requires_grad=grad)
    bias = getattr(module, "bias", None)
    if rows is not None and bias is not None:
        module.bias = nn.Parameter(bias.detach()[rows].clone(), requires_grad=bias.requires_grad)
    _sizes(module)


@torch.no_grad()
def compact(model: nn.Module) -> Cut:
    """Slice away every hidden dimension, head, neuron and sublayer that cannot matter any more.

    A head or a neuron is gone when all that it hands on is zero; a hidden dimension when every norm already leaves it
    out (`PartialNorm`).  The function of the model, in evaluation, stays the same.
    """
    for module in model.modules():
        if isinstance(module, PartialNorm) and module.gate is not None:
            module.settle()
    heads, neurons = [], []
    for block in blocks(model):
        silent = str(model.config.model_type) not in ("albert", "t5")  # type: ignore[union-attr]
        heads.append(_compact_heads(block, separable(model, block), silent))
        neurons.append(_compact_neurons(block))
    return Cut(_compact_hidden(model), tuple(heads), tuple(neurons))


def separable(model: nn.Module, block: Block) -> bool:
    """Whether single heads may leave this layer.

    Not where matrices are fused, keys are shared between heads, or a table of position biases, common to all layers,
    counts on every head being in its place.
    """
    return not block.fused & {"q", "k", "v"} and block.kv_heads == block.heads and relative(model) is None


def living(block: Block) -> bool:
    """Whether a sublayer of the layer still reads what comes in."""
    return not (isinstance(block.part("attend"), NoAttention) and isinstance(block.part("down"), Nothing))


def _compact_heads(block: Block, apart: bool, silent: bool) -> int:
    o = block.part("o")
    if not isinstance(o, nn.Linear):
        return 0
    each, d = block.head_dim, o.out_features
    alive = o.weight.view(d, -1, each).abs().sum((0, 2)) > 0  # (heads,)
    gone = int((~alive).sum())
    if not gone or not (apart if alive.any() else silent):
        return 0
    units = alive.repeat_interleave(each).nonzero().squeeze(1)
    if len(units):
        for module in (*(cast(nn.Module, block.part(part)) for part in ("q", "k", "v")), *block.by_head):
            take(module, rows=units)
        take(o, cols=units)
        block.recount()
        return gone
    inside = any(module is o for module in block.attend.modules())
    rest = _nothing(o)
    if inside:
        alone = NoAttention(d, rest.biased)
        alone.output = rest
        block.put("attend", alone)
    else:
        block.put("attend", NoAttention())
        block.put("o", rest)
    return gone


def _compact_neurons(block: Block) -> int:
    down, up = block.part("down"), block.part("up")
    if not isinstance(down, nn.Linear) or not isinstance(up, nn.Linear | Slice):
        return 0
    alive = (down.weight.abs().sum(0) > 0).nonzero().squeeze(1)
    gone = down.in_features - len(alive)
    if not gone:
        return 0
    entries = [part for part in ("up", "gate") if part in block.parts]
    if isinstance(up, Slice):  # one matrix holds both, one under the other
        entries, rows = ["up"], torch.cat([alive + cast(Slice, block.part(p)).start for p in entries]).sort().values
        up = up.module
    else:
        rows = alive
    if len(alive):
        for part in entries:
            take(cast(nn.Module, up if part == "up" else block.part(part)), rows=rows)
        take(down, cols=alive)
    else:
        for part in entries:
            block.put(part, nn.Identity(), whole=True)
        block.put("down", _nothing(down))
    return gone


def _nothing(linear: nn.Linear) -> Nothing:
    """What a linear layer without inputs still says: its bias, unless that is zero too."""
    speaks = linear.bias is not None and bool(linear.bias.abs().sum() > 0)
    rest = Nothing(linear.out_features, speaks).to(linear.weight.device)
    if speaks:
        cast(Any, rest.bias).data.copy_(linear.bias)
    return rest


def _compact_hidden(model: nn.Module) -> Tensor | None:
    river = stream(model)
    partial = [norm for norm in river.norms if isinstance(norm, PartialNorm)]
    if not partial:
        return None
    kept = cast(Tensor, partial[0].kept)
    assert len(partial) == len(river.norms) and all(torch.equal(cast(Tensor, n.kept), kept) for n in partial)
    index = kept.nonzero().squeeze(1)
    seen: set[int] = set()

    def once(modules: Iterable[nn.Module]) -> Sequence[nn.Module]:
        return [m for m in modules if id(m) not in seen and not seen.add(id(m))]  # type: ignore[func-returns-value]

    for module in once(m for m in river.writers if not isinstance(m, Nothing)):
        take(module, rows=index)
    for module in model.modules():
        if isinstance(module, Nothing):
            module.out_features = len(index)
            module.bias = None if module.bias is None else nn.Parameter(module.bias[index].clone())
    for module in once(m for m in river.readers if not isinstance(m, nn.Identity)):
        take(module, cols=index)
    places = {id(m): path for path, m in model.named_modules()}
    for norm in partial:
        plain = nn.LayerNorm(len(index), eps=norm.eps, bias=norm.bias is not None).to(norm.weight.device)
        plain.weight = nn.Parameter(norm.weight[index].clone())
        if norm.bias is not None:
            plain.bias = nn.Parameter(norm.bias[index].clone())
        model.set_submodule(places[id(norm)], plain)
    return index if len(index) < len(kept) else None


def hidden_tables(model: nn.Module) -> list[nn.Module]:
    """The embedding tables in front of the layers."""
    front = embeddings(model)
    return [m for m in (front.word, front.position, front.token_type) if m is not None]
