"""One matrix as the product of smaller ones."""

import torch
from torch import Tensor, nn

from gossamer.runtime.modules import LowRank


def even_rank(rows: int, cols: int) -> int:
    """The rank at which two factors hold as many numbers as the matrix."""
    return rows * cols // (rows + cols)


@torch.no_grad()
def output_basis(weight: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """The principal directions of W x over the inputs x that `gram` sums up, and the energy along each, largest first.

    weight (m, n), gram (n, n) float64 -> (m, m) orthonormal columns, (m,).  Keeping k of them is the best rank-k
    approximation of W X, with squared error equal to the energy left out (DRONE, Theorem 1, output form).
    """
    w = weight.double()
    energy, basis = torch.linalg.eigh(w @ gram @ w.T)
    return basis.flip(1), energy.flip(0).clamp_min(0)


@torch.no_grad()
def project_outputs(linear: nn.Linear, basis: Tensor, rank: int) -> LowRank:
    """U_k (U_k' W) in place of W; the bias stays."""
    u = basis[:, :rank]
    small = LowRank(linear.in_features, rank, linear.out_features, linear.bias is not None)
    small.up.weight.data.copy_(u)
    small.down.weight.data.copy_(u.T @ linear.weight.double())
    if linear.bias is not None:
        small.up.bias.data.copy_(linear.bias)
    return small.to(linear.weight.device)


@torch.no_grad()
def score_factors(q: Tensor, k: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Narrower queries and keys of one head whose products come closest to the old ones (DRONE, section 3.3).

    q, k (d, n), gram (n, n) of the inputs -> new q, k (rank, n), and the singular values of the score matrix (d,).
    With Cq = q C q' = Lq Lq', Ck likewise and Lq' Lk = U S V': q <- S^1/2 U' Lq^-1 q, k <- S^1/2 V' Lk^-1 k.
    """
    q, k = q.double(), k.double()
    roots = []
    for w in (q, k):
        energy, basis = torch.linalg.eigh(w @ gram @ w.T)
        energy = energy.clamp_min(energy.max() * 1e-12)
        roots.append((basis * energy.sqrt(), energy, basis))
    (lq, eq, bq), (lk, ek, bk) = roots
    u, s, vt = torch.linalg.svd(lq.T @ lk)
    root = s[:rank].sqrt()[:, None]
    new_q = root * (u[:, :rank].T @ (bq / eq.sqrt()).T @ q)
    new_k = root * (vt[:rank] @ (bk / ek.sqrt()).T @ k)
    return new_q, new_k, s
