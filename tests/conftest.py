"""For all tests."""

import gc
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """What tests remember of engines is not for the user's cache; the processes they start inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOSSAMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_no_garbage():
    """Every training ends with a search for garbage, which takes a fifth of a second among all that torch has made.

    So what is there when a module begins is left out of searches from then on.
    """
    import torch._dynamo  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_registry():
    """Of what torch can export, which it puts together anew for every graph: a tenth of the time of a small one."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield
