"""A stand-in for `datasets`, where there is no network."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest


class Table(list):  # type: ignore[type-arg]
    """What a split of a `datasets.DatasetDict` offers, as far as we use it."""

    def __init__(self, rows: list[dict[str, Any]], names: list[str] | None = None) -> None:
        super().__init__(rows)
        self.column_names = list(rows[0])
        self.features = {"label": SimpleNamespace(names=names) if names else SimpleNamespace()}

    def select_columns(self, wanted: list[str]) -> list[dict[str, Any]]:
        return [{column: row[column] for column in wanted} for row in self]


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """Let the hub answer so, or raise; what it is asked."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(*what: Any) -> Any:
        asked.append(what)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked
