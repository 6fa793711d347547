"""Laws 1 and 2: a method is made without arguments, cannot change, is its own repr, and names its paper."""

import inspect
import json
import re
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from gossamer import recipe
from gossamer.fields import Between, OneOf, limits
from tests import small

METHODS = recipe.methods()
FAMILIES = {"distillation", "pruning", "lowrank", "quantization", "sharing", "early_exit", "token_skipping"}


@pytest.mark.parametrize("name", METHODS)
def test_it_is_made_frozen_and_read_back(name: str) -> None:
    method = METHODS[name]()
    assert is_dataclass(method)
    for field in fields(method):
        with pytest.raises(FrozenInstanceError):
            setattr(method, field.name, 0)
    for one in (method, small.method(name)):
        assert recipe.parse(repr(one)) == one and recipe.unparse(one) == repr(one)
    assert eval(repr(method), {name: METHODS[name]}) == method


@pytest.mark.parametrize("name", METHODS)
def test_every_number_has_its_range_and_keeps_to_it(name: str) -> None:
    cls = METHODS[name]
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        range_ = limits(hints[field.name])
        if isinstance(field.default, bool):
            continue
        assert isinstance(range_, (Between, OneOf)), f"{name}.{field.name} has no range for a search to draw from"
        if isinstance(range_, Between):
            default = range_.lo if field.default is None else field.default  # None: the method finds its own
            several = isinstance(default, tuple)
            assert all(range_.lo <= one <= range_.hi for one in (default if several else (default,)))
            for beyond in (range_.lo - 1, range_.hi + 1):
                given = (beyond,) if several else type(default)(beyond)
                with pytest.raises(ValueError, match=rf"{name}\({field.name}=\.\.\.\): found .*, expected .* from"):
                    recipe.check(replace(cls(), **{field.name: given}))
        else:
            assert field.default in range_.choices


@pytest.mark.parametrize("name", METHODS)
def test_it_names_its_paper_and_lives_with_its_family(name: str) -> None:
    told = recipe.describe(METHODS[name])
    paper = re.compile(r"^.+ \(.*[A-Z].+, [A-Z].+ (19|20)\d\d.*\)")
    module = inspect.getmodule(METHODS[name])
    assert paper.match(told["paper"]), told["paper"]
    assert (module.__doc__ or "").count(".") >= 2, "the idea, in two or three sentences"
    assert told["family"] in FAMILIES and Path(module.__file__).parent.name == told["family"]
    table = Path(__file__).parents[3] / "shared" / "design" / "rows.json"
    if table.is_file():  # in a checkout that has the design beside it
        known = {row["row"]: row["family"] for row in json.loads(table.read_text())}
        assert {known[row] for row in told["rows"]} == {told["family"]}
    assert told["rows"] and told["kind"] in ("begin", "rearrange", "cut", "factor", "table", "settle", "walk")
