"""Forms: how a weight is written down.  W = form(free parameters).

A form is attached before training, trained through, and settled afterwards.  It works on any tensor of any module
(torch.nn.utils.parametrize): a Linear, a Conv1D, an Embedding, ``nn.LSTM.weight_ih_l0``.  Several forms on one weight
compose in the order in which they were attached.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gossamer.runtime.modules import (
    AttentionRounding,
    InputRounding,
    IntEmbedding,
    IntLinear,
    TernaryEmbedding,
    TernaryLinear,
    pack,
    straight_through,
)


class Form(nn.Module):
    """W -> W, differentiable (straight through where it must be)."""

    def settle(self, module: nn.Module, soft: Tensor) -> nn.Module:
        """The module to ship for `module`, which by now holds the formed weight; `soft` is what the form was given."""
        return module


class Rounded(Form):
    """Symmetric uniform quantization, one scale per row (Jacob et al., CVPR 2018): s = max|w| / (2^(bits-1) - 1).

    paired: of two weights side by side (the first and second of a row, the third and fourth, ...) those of one sign
    count together in the maximum.  Eight-bit codes of one sign then add up to 128 at most in each pair, and two
    products with unsigned bytes to 128 * 255 < 2^15: x86 without VNNI adds them in sixteen bits (vpmaddubsw), which is
    quick, and wrong beyond that.
    """

    def __init__(self, bits: int = 8, paired: bool = False) -> None:
        super().__init__()
        self.bits, self.top, self.paired = bits, 2 ** (bits - 1) - 1, paired

    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, ...) -> integers of the same shape, scales of shape (rows, 1, ...)."""
        rest = tuple(range(1, w.ndim))
        largest = pairs(w.detach()) if self.paired else w.detach().abs()
        scale = largest.amax(rest, keepdim=True).clamp_min(1e-8) / self.top
        return (w / scale).round().clamp(-self.top, self.top), scale

    def forward(self, w: Tensor) -> Tensor:
        """The nearest weight on the grid, with the gradient of the free one."""
        codes, scale = self.codes(w)
        return straight_through(codes * scale, w)

    def settle(self, module: nn.Module, soft: Tensor) -> nn.Module:
        """Eight-bit integers for linear layers and tables; other modules keep the rounded numbers."""
        if type(module) is nn.Linear:
            rounding, share = getattr(module, "rounding", None), getattr(module, "share", None)
            return IntLinear.of(module, *self.codes(soft), rounding=rounding, share=share)
        if type(module) is nn.Embedding:
            return IntEmbedding.of(module, *self.codes(soft))
        return module


def pairs(w: Tensor) -> Tensor:
    """(rows, n) -> (rows, ceil(n / 2)): what two weights side by side add up to, those below zero or those above it."""
    two = nn.functional.pad(w, (0, w.shape[-1] % 2)).unflatten(-1, (-1, 2))
    sums: Tensor = two.clamp_min(0).sum(-1).maximum(-two.clamp_max(0).sum(-1))
    return sums


class Ternary(Form):
    """{-a, 0, +a} (Li et al., 2016; loss-aware: Hou & Kwok, ICLR 2018).

    rule "twn": cut = 0.7 mean|w|, a = mean|w| over |w| > cut, the closed-form approximation.
    rule "exact": the cut that minimises |w - a b|^2, found by sorting.
    rule "lat": minimises sum sqrt(v) (w - a b)^2 with v the curvature (Adam's second moment; call `look`), by
    alternating a = <b, sqrt(v) w> / <b, sqrt(v) b> and b = round(clip(w / a, -1, 1)).
    rowwise: one a per row (embeddings), else one for the whole tensor.
    """

    rounds = 10  # of the alternation; it mostly ends earlier

    def __init__(self, rule: str = "twn", rowwise: bool = False) -> None:
        super().__init__()
        assert rule in ("twn", "exact", "lat"), rule
        self.rule, self.rowwise = rule, rowwise
        self.curvature: Tensor | None
        self.register_buffer("curvature", None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}curvature" in state_dict:
            self.look(state_dict[f"{prefix}curvature"])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def look(self, second_moment: Tensor) -> None:
        """Remember Adam's second moment of the free weight, of the weight's shape."""
        self.register_buffer("curvature", second_moment.detach().clone())

    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, n) -> codes in {-1, 0, 1}, scale (rows, 1) if rowwise else (1, 1).  A row of zeros stays zero."""
        flat = w.detach().float().flatten(1) if self.rowwise else w.detach().float().reshape(1, -1)
        size = flat.abs()
        if self.rule == "exact":
            ordered = size.sort(1, descending=True).values
            gain = ordered.cumsum(1).square() / torch.arange(1, flat.shape[1] + 1, device=w.device)
            cut = ordered.gather(1, gain.argmax(1, keepdim=True)) * (1 - 1e-7)
        else:
            cut = 0.7 * size.mean(1, keepdim=True)
        keep = (size > cut).float()
        codes, scale = flat.sign() * keep, (size * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp_min(1)
        if self.rule == "lat" and self.curvature is not None and bool(self.curvature.any()):
            codes, scale = self._loss_aware(flat, self.curvature.view_as(flat).sqrt() + 1e-12, codes)
        return codes.view_as(w), scale

    def _loss_aware(self, w: Tensor, weight: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.ones_like(w[:, :1])
        for _ in range(self.rounds):
            scale = (codes * weight * w).sum(1, keepdim=True) / (codes.abs() * weight).sum(1, keepdim=True).clamp_min(
                1e-20
            )
            fresh = (w / scale.clamp_min(1e-20)).clamp(-1, 1).round()
            if torch.equal(fresh, codes):
                break
            codes = fresh
        return codes, scale

    def _spread(self, scale: Tensor, w: Tensor) -> Tensor:
        return scale.view(-1, *[1] * (w.ndim - 1))

    def forward(self, w: Tensor) -> Tensor:
        """The ternary weight, with the gradient of the free one."""
        codes, scale = self.codes(w)
        return straight_through((codes * self._spread(scale, w)).to(w.dtype), w)

    def settle(self, module: nn.Module, soft: Tensor) -> nn.Module:
        """Two bits a weight; the rounding of the inputs keeps the range that it saw."""
        codes, scale = self.codes(soft)
        new: Any
        if type(module) is nn.Linear:
            rounding = cast(InputRounding | None, getattr(module, "rounding", None))
            new = TernaryLinear(
                module.in_features, module.out_features, module.bias is not None, rounding.bits if rounding else 0
            )
            new.bias, new.rounding = module.bias, rounding
        elif type(module) is nn.Embedding:
            new = TernaryEmbedding(module.num_embeddings, module.embedding_dim, module.padding_idx)
            scale = scale.expand(module.num_embeddings, 1)
        else:
            return module
        new.packed, new.scale = pack(codes), scale.contiguous() if type(module) is nn.Embedding else scale.reshape(-1)
        return cast(nn.Module, new)


class Gated(Form):
    """Rows or columns scaled by a gate: how structured pruning touches a weight.  dim None: one gate for all."""

    def __init__(self, gate: nn.Module, dim: int | None, each: int = 1) -> None:
        super().__init__()
        self.gate, self.dim, self.each = gate, dim, each

    def forward(self, w: Tensor) -> Tensor:
        """W with every unit, `each` consecutive rows or columns, times its gate."""
        z: Tensor = self.gate().repeat_interleave(self.each)
        return w * (z if self.dim is None else z.view(-1, *[1] * (w.ndim - 1 - self.dim % w.ndim)))


def attach(module: nn.Module, form: Form, name: str = "weight") -> Form:
    """Write the tensor `name` of `module` down in this form from now on."""
    parametrize.register_parametrization(module, name, form)
    return form


def round_input(module: nn.Module, bits: int = 8) -> InputRounding:
    """Round what the module is given, in a range learned while training; the module to ship keeps it."""
    rounding = InputRounding(bits).train(module.training)
    rounding.learning = True
    module.add_module("rounding", rounding)
    module.register_forward_pre_hook(_round_input)
    return rounding


def bound_input(module: nn.Linear, low: Tensor, high: Tensor, share: Tensor | None = None) -> None:
    """Round what the linear is given between these bounds, (); zero lies on the grid.

    share: (in,), what each feature is multiplied by before; the weight is divided by it, so that nothing else changes.
    """
    rounding = round_input(module)
    rounding.learning = False
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = rounding.step(low, high)
    rounding.low.copy_((low / step).round() * step)
    rounding.high.copy_(rounding.low + (2**rounding.bits - 1) * step)
    if share is not None:
        module.weight.data.div_(share)
        module.register_buffer("share", share)


def _round_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    rounding, share = cast(InputRounding, module.rounding), getattr(module, "share", None)
    return rounding(args[0] if share is None else args[0] * share), *args[1:]


def round_attention(attend: nn.Module, bits: int = 8) -> None:
    """Round queries, keys, probabilities and values of an attention (heard by our attention function only)."""
    rounding = AttentionRounding(bits).train(attend.training)
    for operand in rounding.children():
        cast(InputRounding, operand).learning = True
    attend.add_module("rounding", rounding)


def formed(model: nn.Module, kind: type[Form] = Form) -> Iterable[tuple[nn.Module, str, Form]]:
    """Every form attached in the model: (module, name of the tensor, form)."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name, forms in cast(Any, module.parametrizations).items():
                yield from ((module, name, form) for form in forms if isinstance(form, kind))


@torch.no_grad()
def settle(model: nn.Module) -> int:
    """Write every formed weight down for good; the number of modules that had one.  Modules are replaced in place."""
    model.eval()
    found = [(path, m) for path, m in model.named_modules() if parametrize.is_parametrized(m)]
    for path, module in found:
        last: tuple[Form, Tensor] | None = None
        for name, forms in list(cast(Any, module.parametrizations).items()):
            soft = forms.original
            for form in list(forms)[:-1]:
                soft = form(soft)
            if name == "weight":
                last = forms[-1], soft.detach().clone()
            parametrize.remove_parametrizations(module, name)
        if last is not None:
            new = last[0].settle(module, last[1])
            if new is not module:
                model.set_submodule(path, new.train(module.training))
    for module in [m for _, m in found] + list(model.modules()):
        _still(module)
    return len(found)


def _still(module: nn.Module) -> None:
    """Ranges are no longer learned, and no hook rounds in a module's place."""
    if isinstance(module, InputRounding):
        module.learning = False
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _round_input:
            del module._forward_pre_hooks[key]
