import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.engines.stages import _compare, _sample
from gossamer.task import Read

PROBES = [2, 2, 3, 3, 4, 4, 7, 7, 11, 11, 22, 22, 35, 35, 42, 42, 128, 128]  # lengths, as export has them


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 5))
def test_what_is_exported_has_no_two_sizes_alike(lengths, tokens_a_word):
    reads = [Read([1] * n * tokens_a_word, [0] * n * tokens_a_word, False) for n in PROBES + lengths]
    layout, some = _sample(reads)
    assert len({1, *layout.shape, len(some)}) == 4 and len(layout.texts) == len(some) > 4


def test_a_text_may_part_but_not_be_lost():
    """Of thirty texts three may have gone another way, to the answer of another exit, and no further."""
    wanted = [np.array([0.5, -1.0]) for _ in range(30)]

    def said(off):
        return [(i, [(one + off * (i == 7))[None]]) for i, one in enumerate(wanted)]

    assert _compare(said(0.9), wanted, 1e-5, walks=True)[0] == 0
    with pytest.raises(ValueError, match=r"its answers differ from the model's by"):
        _compare(said(0.9), wanted, 1e-5, walks=False)
    for off in (1e6, np.nan):
        with pytest.raises(ValueError, match="one of its answers differs from the model's by"):
            _compare(said(off), wanted, 1e-5, walks=True)
