"""Who multiplies torch's float32 matrices on this processor.

Torch has MKL do it, which keeps to AVX2 on AMD's processors; oneDNN, which torch has as well, uses their AVX-512.
Torch asks it for float32 only where products in bfloat16 are allowed.  Without AMX oneDNN has none of those and
multiplies float32, as is seen by the digits before it is relied on.  benchmarks/float32.py measures what it is worth.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from gossamer.environment import narrow_mkl

SAID, ALLOWED = "highest", "medium"  # torch's words for how float32 is multiplied: as it comes, and as may be asked for


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """For a while, float32 products on a processor by the library that is quicker there, to float32's own digits.

    Nothing changes on other devices, where MKL is the one, or where the user has said how to multiply float32.
    """
    if device.type != "cpu" or not _unsaid() or not _better():
        yield
        return
    torch.set_float32_matmul_precision(ALLOWED)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(SAID)


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
