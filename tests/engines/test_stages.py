from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.engines.stages import _sample
from gossamer.task import Read

PROBES = [2, 2, 3, 3, 4, 4, 7, 7, 11, 11, 22, 22, 35, 35, 42, 42, 128, 128]  # lengths, as export has them


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 5))
def test_what_is_exported_has_no_two_sizes_alike(lengths, tokens_a_word):
    reads = [Read([1] * n * tokens_a_word, [0] * n * tokens_a_word, False) for n in PROBES + lengths]
    layout, some = _sample(reads)
    assert len({1, *layout.shape, len(some)}) == 4 and len(layout.texts) == len(some) > 4
