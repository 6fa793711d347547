"""What compressed layers become: modules that hold less and compute the same."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attention


class LowRank(nn.Module):
    """y = up(down(x)), rank in the middle: two small products in place of a large one."""

    weight = None  # some families look before they call

    def __init__(self, in_features: int, rank: int, out_features: int, biased: bool = True) -> None:
        super().__init__()
        self.in_features, self.rank, self.out_features, self.biased = in_features, rank, out_features, biased
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=biased)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.up(self.down(x))  # type: ignore[no-any-return]


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, the gradient of `soft` (Bengio et al., 2013)."""
    return hard.detach() + (soft - soft.detach())  # in this order the value is `hard` to the last bit


class InputRounding(nn.Module):
    """Uniform rounding of activations between a lowest and a highest value, asymmetric (TernaryBERT, eq. 4).

    While it is learned (`learning`, in training), each call rounds within its own range and the range is remembered as
    a running mean; afterwards the remembered range is used, so that an answer does not depend on its batch mates.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int = 8, memory: float = 0.99) -> None:
        super().__init__()
        self.bits, self.memory, self.learning = bits, memory, False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape, on at most 2^bits values."""
        low, high = self.low, self.high
        if self.training and self.learning:
            low, high = (v.float() for v in torch.aminmax(x.detach()))
            if torch.distributed.is_available() and torch.distributed.is_initialized():  # the range of the whole batch
                torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
                torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
            fresh = self.high == self.low  # nothing seen yet
            self.low.copy_(torch.where(fresh, low, self.low.lerp(low, 1 - self.memory)))
            self.high.copy_(torch.where(fresh, high, self.high.lerp(high, 1 - self.memory)))
        step = self.step(low, high)
        return straight_through((self.levels(single(x), low, step) * step + low).to(x.dtype), x)

    def step(self, low: Tensor, high: Tensor) -> Tensor:
        """From one value to the next; ()."""
        step: Tensor = ((high - low) / (2**self.bits - 1)).clamp_min(1e-8)
        return step

    def levels(self, x: Tensor, low: Tensor, step: Tensor) -> Tensor:
        """Whole numbers from 0 to 2^bits - 1, of the shape of x."""
        return ((x - low) / step).round().clamp(0, 2**self.bits - 1)


class AttentionRounding(nn.Module):
    """The four operands of an attention's two products, rounded each in its own range."""

    needs_attention = True  # only our attention function rounds

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits
        self.query, self.key = InputRounding(bits), InputRounding(bits)
        self.value, self.probs = InputRounding(bits), InputRounding(bits)


def single(x: Tensor) -> Tensor:
    """In single precision, or double where it was given in that."""
    return x if x.dtype == torch.float64 else x.float()


def whole_product(rounded: Tensor, codes: Tensor) -> Tensor:
    """(n, in) @ (in, out) of whole numbers in [-127, 127], exactly, in the way that is fast where they are; float32.

    torch multiplies bytes well where the processor does (VNNI, AMX), and elsewhere many times more slowly than floats.
    Products of 1024 of them are whole numbers under 2^24, which float32 holds, and their sum is taken in float64.
    """
    if multiplies_bytes(rounded, codes):
        return torch._int_mm(rounded.to(torch.int8), codes).float()
    parts = zip(rounded.split(1024, 1), codes.split(1024, 0), strict=True)
    products = [some.float() @ others.float() for some, others in parts]
    return products[0] if len(products) == 1 else torch.stack(products).sum(0, dtype=torch.float64).float()


def multiplies_bytes(rounded: Tensor, codes: Tensor) -> bool:
    """Whether torch has a fast product of bytes for these."""
    if rounded.is_cuda:  # its kernel wants more than 16 rows, and multiples of 8
        return len(rounded) > 16 and not any(size % 8 for size in codes.shape)
    return processor_multiplies_bytes()


@cache
def processor_multiplies_bytes() -> bool:
    """Whether this one does: what is not x86 is taken to."""
    known = torch.cpu.get_capabilities()
    return known.get("architecture") != "x86_64" or any(
        known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


class IntLinear(nn.Module):
    """Eight-bit integers times one scale per output; activations rounded too, so that no token sees its neighbours.

    y = (q(x) @ codes) * sx * scale + bias,  q(x) = round(x / sx),  sx = max|x| / 127 over the token's features, or,
    if `fixed`, between bounds that were seen before, the same for all tokens, with q(0) = 0: round(x / sx) in
    [low / sx, high / sx], 255 steps apart.  If `smooth`, each feature is multiplied by its share first, and the codes
    are those of weights divided by it (SmoothQuant, Xiao et al., ICML 2023, eq. 3).
    """

    weight = None  # some families look before they call

    codes: Tensor
    scale: Tensor

    def __init__(
        self, in_features: int, out_features: int, biased: bool = True, fixed: bool = False, smooth: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.biased = in_features, out_features, biased
        self.fixed, self.smooth = fixed, smooth
        self.register_buffer("codes", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if biased else None
        self.rounding = InputRounding(8) if fixed else None
        if smooth:
            self.register_buffer("share", torch.ones(in_features))

    @classmethod
    def of(
        cls,
        linear: nn.Linear,
        codes: Tensor,
        scale: Tensor,
        rounding: InputRounding | None = None,
        share: Tensor | None = None,
    ) -> "IntLinear":
        """codes: (out, in) integers in [-127, 127]; scale: (out, 1) or (out,); share: (in,)."""
        biased = linear.bias is not None
        new = cls(linear.in_features, linear.out_features, biased, rounding is not None, share is not None)
        new = new.to(codes.device)
        new.codes.copy_(codes.t())
        new.scale.copy_(scale.reshape(-1))
        if new.bias is not None:
            new.bias.data.copy_(linear.bias.data)
            new.bias.requires_grad_(linear.bias.requires_grad)
        if new.rounding is not None and rounding is not None:
            new.rounding.load_state_dict(rounding.state_dict())
        if share is not None:
            new.get_buffer("share").copy_(share)
        return new

    def weight_count(self) -> int:
        """How many weights are stored, biases included."""
        return self.codes.numel() + (0 if self.bias is None else self.bias.numel())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of x."""
        given = single(x) * self.get_buffer("share") if self.smooth else single(x)
        if x.requires_grad or x.is_meta:  # something below us still learns: same numbers, with a gradient
            y = self._rounded(given) @ (self.codes.float() * self.scale)
        else:
            y = self._whole(given)
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def _rounded(self, x: Tensor) -> Tensor:
        """The numbers that the integers stand for, with the gradient of x."""
        if self.rounding is not None:
            return self.rounding(x)  # type: ignore[no-any-return]
        step = self._step(x)
        return straight_through((x / step).round() * step, x)

    def _whole(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) without the bias, multiplied as integers."""
        flat, shape = x.reshape(-1, self.in_features), (*x.shape[:-1], self.out_features)
        if self.rounding is None:
            step = self._step(flat)
            return (whole_product((flat / step).round(), self.codes) * step * self.scale).view(shape)
        low, step = self.rounding.low, self.rounding.step(self.rounding.low, self.rounding.high)
        products = whole_product(self.rounding.levels(flat, low, step) - 128, self.codes)
        return ((products + (128 + (low / step).round()) * self.codes.sum(0)) * step * self.scale).view(shape)

    @staticmethod
    def _step(x: Tensor) -> Tensor:
        return x.detach().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127


class IntEmbedding(nn.Module):
    """A look-up table of eight-bit integers, one scale per row."""

    codes: Tensor
    scale: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.register_buffer("codes", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(num_embeddings, 1))

    @classmethod
    def of(cls, table: nn.Embedding, codes: Tensor, scale: Tensor) -> "IntEmbedding":
        """codes: (rows, dim) integers in [-127, 127]; scale: (rows, 1)."""
        new = cls(table.num_embeddings, table.embedding_dim, table.padding_idx).to(codes.device)
        new.codes.copy_(codes)
        new.scale.copy_(scale)
        return new

    @property
    def weight(self) -> Tensor:
        """The whole table, (rows, dim), for a family that reads it so."""
        return self.codes.to(self.scale.dtype) * self.scale

    def weight_count(self) -> int:
        """How many weights are stored."""
        return self.codes.numel()

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., dim)."""
        return F.embedding(ids, self.codes).to(self.scale.dtype) * F.embedding(ids, self.scale)


def pack(codes: Tensor) -> Tensor:
    """(rows, n) codes in {-1, 0, 1} -> (rows, ceil(n / 4)) bytes, two bits each, low bits first, zero point 1."""
    rows, n = codes.shape
    padded = F.pad(codes.to(torch.int16) + 1, (0, -n % 4), value=1).view(rows, -1, 4)
    return (padded * torch.tensor([1, 4, 16, 64], dtype=torch.int16, device=codes.device)).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, n: int) -> Tensor:
    """(rows, ceil(n / 4)) bytes -> (rows, n) int8 codes in {-1, 0, 1}."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & 3).flatten(-2)[..., :n].to(torch.int8) - 1


class TernaryLinear(nn.Module):
    """{-a, 0, +a}: two bits a weight on disk and in memory, one `a` for the matrix; inputs rounded as in training."""

    weight = None  # some families look before they call

    packed: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, biased: bool = True, bits: int = 8) -> None:
        super().__init__()
        self.in_features, self.out_features, self.biased, self.bits = in_features, out_features, biased, bits
        self.register_buffer("packed", torch.zeros(out_features, -(-in_features // 4), dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(out_features)) if biased else None
        self.rounding = InputRounding(bits) if bits else None

    def weight_count(self) -> int:
        """How many weights are stored, biases included."""
        return self.in_features * self.out_features + (0 if self.bias is None else self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.rounding is not None:
            x = self.rounding(x)
        weight = unpack(self.packed, self.in_features).to(x.dtype) * self.scale.to(x.dtype)
        return F.linear(x, weight, self.bias)


class TernaryEmbedding(nn.Module):
    """A look-up table of {-a, 0, +a} with one `a` per row; only the rows that are asked for are unpacked."""

    packed: Tensor
    scale: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.register_buffer("packed", torch.zeros(num_embeddings, -(-embedding_dim // 4), dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(num_embeddings, 1))

    def weight_count(self) -> int:
        """How many weights are stored."""
        return self.num_embeddings * self.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., dim)."""
        codes = unpack(F.embedding(ids, self.packed), self.embedding_dim)
        return codes.to(self.scale.dtype) * F.embedding(ids, self.scale)


class ScoreAttention(nn.Module):
    """Self-attention whose queries and keys are narrower than its values (DRONE's attention-score form).

    Takes the place of a family's self-attention of the shape forward(hidden_states, attention_mask, ...) -> (context,
    probs); the children keep the family's names so that the anatomy still finds them.
    """

    def __init__(
        self, names: list[str], hidden: int, heads: int, score_size: int, head_size: int, scaling: float, dropout: float
    ) -> None:
        super().__init__()
        self.names, self.hidden, self.heads = names, hidden, heads
        self.score_size, self.head_size, self.scaling, self.dropout = score_size, head_size, scaling, dropout
        self.is_causal = False
        for name, size in zip(names, (score_size, score_size, head_size), strict=True):
            self.add_module(name, nn.Linear(hidden, heads * size))

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, hidden) -> (B, T, heads * head size)."""
        q, k, v = (
            self.get_submodule(name)(hidden_states).unflatten(-1, (-1, size)).transpose(1, 2)
            for name, size in zip(self.names, (self.score_size, self.score_size, self.head_size), strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        context, probs = attention(self, q, k, v, attention_mask, scaling=self.scaling, dropout=dropout)
        return context.flatten(-2), probs


class Nothing(nn.Module):
    """A linear layer that reads nothing any more: its bias alone, or zeros, at the width it used to have."""

    weight = None  # some families look before they call

    def __init__(self, out_features: int, biased: bool = False) -> None:
        super().__init__()
        self.out_features, self.biased = out_features, biased
        self.bias = nn.Parameter(torch.zeros(out_features)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., anything) -> (..., out)."""
        zeros = x.new_zeros(*x.shape[:-1], self.out_features)
        return zeros if self.bias is None else zeros + self.bias


class NoAttention(nn.Module):
    """What is left of an attention all of whose heads are gone.

    out_features None: the output projection lies outside, where `Nothing` answers; else this answers for it.
    """

    def __init__(self, out_features: int | None = None, biased: bool = False) -> None:
        super().__init__()
        self.out_features, self.biased = out_features, biased
        self.output = None if out_features is None else Nothing(out_features, biased)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(B, T, d) -> (B, T, d)."""
        return hidden_states if self.output is None else self.output(hidden_states), None


__all__ = [
    "AttentionRounding",
    "InputRounding",
    "IntEmbedding",
    "IntLinear",
    "LowRank",
    "NoAttention",
    "Nothing",
    "ScoreAttention",
    "TernaryEmbedding",
    "TernaryLinear",
    "pack",
    "straight_through",
    "unpack",
]
