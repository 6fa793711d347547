"""One small world for each kind of task."""

from functools import cache
from pathlib import Path

import pytest

from gossamer.task import TASKS
from tests.task import worlds

KINDS = tuple(task.kind for task in TASKS)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A function of a kind, and how many layers its model has: its world, made once."""

    @cache
    def made(kind: str, layers: int = 2) -> worlds.World:
        folder: Path = tmp_path_factory.mktemp(kind)
        return worlds.world(kind, folder, layers=layers)

    return made
