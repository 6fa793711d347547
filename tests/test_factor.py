"""Products of smaller matrices: as good as the theorem says, and never worse than forgetting the data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.factor import even_rank, output_basis, project_outputs, score_factors


def drawn(seed: int, m: int = 9, n: int = 12, samples: int = 50, spans: int = 12) -> tuple[Tensor, Tensor]:
    """W (m, n) and inputs X (n, samples) of unequal directions that span `spans` dimensions; float64."""
    chance = torch.Generator().manual_seed(seed)
    w = torch.randn(m, n, generator=chance, dtype=torch.double)
    mix = torch.randn(n, spans, generator=chance, dtype=torch.double) * torch.logspace(0, -2, spans).double()
    return w, mix @ torch.randn(spans, samples, generator=chance, dtype=torch.double)


def approximated(w: Tensor, basis: Tensor, rank: int) -> Tensor:
    return basis[:, :rank] @ (basis[:, :rank].T @ w)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(9, 12), (12, 9), (7, 7)]))
def test_never_worse_than_the_svd_of_the_weight_and_as_good_as_the_tail_says(seed: int, size: tuple[int, int]) -> None:
    w, x = drawn(seed, *size, spans=size[1])
    basis, energy = output_basis(w, x @ x.T)
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    tail = torch.linalg.svdvals(w @ x).square()
    for rank in range(1, min(size) + 1):
        error = float((w @ x - approximated(w, basis, rank) @ x).square().sum())
        plain = float((w @ x - (u[:, :rank] * s[:rank]) @ vt[:rank] @ x).square().sum())
        assert error <= plain * (1 + 1e-9) + 1e-9
        assert error == pytest.approx(float(tail[rank:].sum()), rel=1e-6, abs=1e-9)
        assert error == pytest.approx(float(energy[rank:].sum()), rel=1e-6, abs=1e-8)
    assert error < 1e-8
    assert torch.allclose(basis.T @ basis, torch.eye(size[0]).double(), atol=1e-10)


def test_it_gains_where_inputs_are_uneven() -> None:
    w, x = drawn(0)
    basis, _ = output_basis(w, x @ x.T)
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    error = (w @ x - approximated(w, basis, 3) @ x).square().sum()
    assert error < 0.8 * (w @ x - (u[:, :3] * s[:3]) @ vt[:3] @ x).square().sum()


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_the_three_ways_to_write_the_theorem_agree(rank: int) -> None:
    w, x = drawn(3)
    gram = x @ x.T
    ours = approximated(w, output_basis(w, gram)[0], rank)
    root = torch.linalg.cholesky(gram)  # by whitening
    u, s, vt = torch.linalg.svd(w @ root)
    whitened = (u[:, :rank] * s[:rank]) @ torch.linalg.solve_triangular(root, vt[:rank], upper=False, left=False)
    uw, sw, vw = torch.linalg.svd(w, full_matrices=False)  # the closed form of the paper
    ux, sx, _ = torch.linalg.svd(x, full_matrices=False)
    uz, sz, vz = torch.linalg.svd(torch.diag(sw) @ vw @ ux @ torch.diag(sx), full_matrices=False)
    closed = uw @ uz[:, :rank] @ torch.diag(sz[:rank]) @ vz[:rank] @ torch.diag(1 / sx) @ ux.T
    assert torch.allclose(ours, whitened, atol=1e-8)
    assert torch.allclose(ours, closed, atol=1e-8)


@pytest.mark.parametrize("spans", [1, 3, 6])
def test_as_many_ranks_as_the_inputs_span_are_enough(spans: int) -> None:
    w, x = drawn(5, spans=spans)
    basis, energy = output_basis(w, x @ x.T)
    assert float((w @ x - approximated(w, basis, spans) @ x).abs().max()) < 1e-9
    assert bool((energy[spans:] < 1e-9 * energy[0]).all())


@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_layer_becomes_two(biased: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(12, 9, bias=biased), torch.randn(40, 12)
    basis, energy = output_basis(linear.weight, (x.T @ x).double())
    small = project_outputs(linear, basis, 4)
    assert (small.in_features, small.rank, small.out_features, small.biased) == (12, 4, 9, biased)
    error = (small(x) - linear(x)).square().sum()  # the bias is exact, so that this is the error of W X alone
    assert float(error.detach()) == pytest.approx(float(energy[4:].sum()), rel=1e-4)
    assert torch.allclose(project_outputs(linear, basis, 9)(x), linear(x), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_narrower_queries_and_keys_lose_the_tail_of_the_scores(seed: int) -> None:
    """Biases are one more column of q and k, over a constant 1."""
    chance = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(5, 11, generator=chance, dtype=torch.double) for _ in "qk")
    y = torch.randn(11, 60, generator=chance, dtype=torch.double) * torch.logspace(0, -1, 11).double()[:, None]
    y[-1] = 1
    scores = (q @ y).T @ (k @ y)
    tail = torch.linalg.svdvals(scores)
    for rank in range(1, 6):
        new_q, new_k, values = score_factors(q, k, y @ y.T, rank)
        assert new_q.shape == new_k.shape == (rank, 11)
        error = float(((new_q @ y).T @ (new_k @ y) - scores).square().sum())
        assert error == pytest.approx(float(tail[rank:5].square().sum()), rel=1e-5, abs=1e-7 * float(tail[0] ** 2))
        assert torch.allclose(values, tail[:5], rtol=1e-6)


def test_dead_queries_give_finite_factors() -> None:
    y = torch.randn(6, 30, dtype=torch.double)
    q, k = torch.zeros(4, 6).double(), torch.randn(4, 6).double()
    q[0] = torch.randn(6)
    new_q, new_k, _ = score_factors(q, k, y @ y.T, 2)
    assert bool(new_q.isfinite().all() and new_k.isfinite().all())
    assert torch.allclose((new_q @ y).T @ (new_k @ y), (q @ y).T @ (k @ y), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 500), st.integers(2, 500))
def test_the_even_rank_is_the_last_that_saves_nothing_more(rows: int, cols: int) -> None:
    rank = even_rank(rows, cols)
    assert rank * (rows + cols) <= rows * cols < (rank + 1) * (rows + cols)
