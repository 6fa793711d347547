"""Who multiplies torch's float32 matrices on this processor.

Torch has MKL do it, which keeps to AVX2 on AMD's processors; oneDNN, which torch has as well, uses their AVX-512.
Torch asks it for float32 only where products in bfloat16 are allowed.  Without AMX oneDNN has none of those and
multiplies float32, as is seen by the digits before it is relied on.  Torch's fused attention makes many small products,
at which oneDNN is slow, so attention goes in blocks meanwhile.  benchmarks/float32.py measures what it is worth.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gossamer.environment import narrow_mkl
from gossamer.runtime import attention

UNSAID, ALLOWED = "none", "bf16"  # torch's words for what oneDNN may make of float32
FUSED = "sdpa"  # what transformers calls torch's attention
WIDE = 256  # products of narrower models are too small for oneDNN's dearer calls
MANY = 256  # tokens at once: to prepare for each shape of a text alone costs oneDNN more than it gains
_turn = Lock()
_inside = [0]  # how many are: what is said to torch is said to all threads
_before: list[Any] = []  # what somebody else has put in place of torch's attention


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """For a while, float32 products on a processor by the library that is quicker there, to float32's own digits.

    Nothing changes on other devices, where MKL is the one, or where the user has said how oneDNN is to multiply.  What
    is said meanwhile holds; only attention that has been put in place of torch's comes back at the end.
    """
    with _turn:
        here = device.type == "cpu" and (_inside[0] > 0 or (_unsaid() and _better()))
        if here and not _inside[0]:
            _change()
        _inside[0] += here
    try:
        yield
    finally:
        with _turn:
            _inside[0] -= here
            if here and not _inside[0]:
                _change_back()


def wide(model: torch.nn.Module) -> bool:
    """Whether hidden states are as wide as it takes."""
    return int(getattr(getattr(model, "config", None), "hidden_size", 0) or 0) >= WIDE


def _change() -> None:
    _say(ALLOWED)
    attention.fused = False
    _before[:] = [ALL_ATTENTION_FUNCTIONS._local_mapping.get(FUSED)]
    ALL_ATTENTION_FUNCTIONS[FUSED] = attention.attention


def _change_back() -> None:
    attention.fused = True
    if _said() == ALLOWED:
        _say(UNSAID)
    ALL_ATTENTION_FUNCTIONS._local_mapping.pop(FUSED, None)
    if _before[0] is not None:
        ALL_ATTENTION_FUNCTIONS[FUSED] = _before[0]


def _said() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


def _say(how: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = how  # type: ignore[attr-defined]


def _unsaid() -> bool:
    """Whether oneDNN may be used, and nobody has said how it is to multiply."""
    return bool(torch._C._get_mkldnn_enabled()) and _said() == UNSAID


@cache
def _better() -> bool:
    """Whether oneDNN is the quicker one here, and its float32 is float32."""
    if not (narrow_mkl() and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    return _exact()


@torch.no_grad()
def _exact() -> bool:
    """Whether products of the sizes of linear layers, forth and back, have float32's digits when others are allowed."""
    chance, far = torch.Generator("cpu").manual_seed(0), 0.0
    before = _said()
    _say(ALLOWED)
    try:
        with torch.autocast("cpu", enabled=False):
            for rows, inputs, outputs in ((1, 384, 384), (31, 384, 1536), (300, 768, 768), (64, 3072, 768)):
                sizes = ((rows, inputs), (outputs, inputs), (outputs,))
                x, w, b = (torch.randn(size, generator=chance, dtype=torch.float32, device="cpu") for size in sizes)
                y = F.linear(x, w, b)
                true = F.linear(x.double(), w.double(), b.double())
                pairs = [(y, true), (y @ w, y.double() @ w.double()), (y.T @ x, y.double().T @ x.double())]
                heads = x.view(rows, -1, 32).transpose(0, 1)
                pairs += [(heads @ heads.transpose(1, 2), heads.double() @ heads.double().transpose(1, 2))]
                far = max([far, *(float((one - other).norm() / other.norm()) for one, other in pairs)])
    finally:
        _say(before)
    return far < 1e-5  # in bfloat16 2e-3
