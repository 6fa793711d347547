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

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gossamer.environment import narrow_mkl
from gossamer.runtime import attention

SAID, ALLOWED = "highest", "medium"  # torch's words for how float32 is multiplied: as it comes, and as may be asked for
FUSED = "sdpa"  # what transformers calls torch's attention
_turn = Lock()
_inside = [0]  # how many are: what is said to torch is said to all threads


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """For a while, float32 products on a processor by the library that is quicker there, to float32's own digits.

    Nothing changes on other devices, where MKL is the one, or where the user has said how to multiply float32.
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


def _change() -> None:
    torch.set_float32_matmul_precision(ALLOWED)
    ALL_ATTENTION_FUNCTIONS[FUSED] = attention.attention
    attention.fused = False


def _change_back() -> None:
    torch.set_float32_matmul_precision(SAID)
    del ALL_ATTENTION_FUNCTIONS[FUSED]
    attention.fused = True


def _unsaid() -> bool:
    """Whether nobody has said how float32 is to be multiplied."""
    try:
        return torch.get_float32_matmul_precision() == SAID
    except RuntimeError:  # said for one library alone
        return False


@cache
def _better() -> bool:
    """Whether oneDNN is the quicker one here, and its float32 is float32."""
    return narrow_mkl() and torch.backends.mkldnn.is_available() and _exact()


def _exact() -> bool:
    """Whether products of the sizes of linear layers, forth and back, have float32's digits when others are allowed."""
    chance, far = torch.Generator().manual_seed(0), 0.0
    torch.set_float32_matmul_precision(ALLOWED)
    try:
        for rows, inputs, outputs in ((1, 384, 384), (31, 384, 1536), (300, 768, 768)):
            x, w = (torch.randn(n, inputs, generator=chance) for n in (rows, outputs))
            for one, other in ((x, w.T), (x.T, x)):
                true = one.double() @ other.double()
                far = max(far, float((one @ other - true).norm() / true.norm()))
    finally:
        torch.set_float32_matmul_precision(SAID)
    return far < 1e-5  # in bfloat16 2e-3
