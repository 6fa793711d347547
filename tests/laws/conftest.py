"""The nine methods at work: each runs once, and every law looks at the same result."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gossamer import artefact
from gossamer.job import Job
from tests import small


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """A function of methods' names: the job after them.  To be looked at, and copied before it is changed."""
    kept: dict[tuple[str, ...], Job] = {}

    def run(*names: str) -> Job:
        if names not in kept:
            folder = tmp_path_factory.mktemp("-".join(names))
            start = small.again(run(*names[:-1]), folder) if names[1:] else small.job(folder)
            kept[names] = small.after(start, names[-1])
        return kept[names]

    return run


@pytest.fixture(scope="session")
def saved(finished: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function of methods' names: the artefact after them."""
    place, kept = tmp_path_factory.mktemp("artefacts"), dict[tuple[str, ...], Path]()

    def write(*names: str) -> Path:
        if names not in kept:
            made = small.again(finished(*names), place).model
            kept[names] = artefact.save(made, place / "-".join(names), probe=small.batch(), verify=False)
        return kept[names]

    return write
