"""Which of the examples stand for all of them, where all of them would take too long."""

from collections.abc import Sequence


def spread(n: int, k: int) -> list[int]:
    """k row numbers of n, evenly spaced and in order; around again when k > n.

    Raises ValueError when there are no rows.
    """
    if n < 1:
        raise ValueError("no examples to measure on; expected at least one text")
    if k <= n:
        return [i * n // k for i in range(k)]
    return [i % n for i in range(k)]


def chosen(
    texts: Sequence[str], pairs: Sequence[str] | None, rows: Sequence[int]
) -> tuple[list[str], list[str] | None]:
    """These rows of texts and, where there are any, of their pairs."""
    return [texts[i] for i in rows], None if pairs is None else [pairs[i] for i in rows]
