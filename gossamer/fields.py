"""What a field of a method may hold: its type, its range, and whether a value fits.

A field carries its range as a mark in its annotation: `sparsity: Annotated[float, Between(0.5, 0.98)] = 0.95`.
Recipes are checked against it, `gossamer methods` shows it, and a search draws from it.
"""

import math
import types
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

WANTED = {float: "a finite number", int: "a whole number", bool: "True or False", str: "a string in quotes"}


@dataclass(frozen=True)
class Between:
    """The numbers from `lo` to `hi`, both included: `Annotated[float, Between(0.5, 0.98)]`."""

    lo: float
    hi: float


@dataclass(frozen=True, init=False)
class OneOf:
    """The values a field may take: `Annotated[int, OneOf(2, 4, 8)]`."""

    choices: tuple[Any, ...]

    def __init__(self, *choices: Any) -> None:
        object.__setattr__(self, "choices", choices)  # frozen, and still written as it reads: OneOf(2, 4, 8)

    def __repr__(self) -> str:
        """As it is written."""
        return f"OneOf({', '.join(map(repr, self.choices))})"


def plain(number: float) -> float:
    """Whole numbers without a fraction: equal ranges of types are one object, however either was written."""
    return int(number) if number == int(number) else number


def limits(hint: Any) -> Between | OneOf | None:
    """The range in a type, a `Literal`'s as a `OneOf`; None where there is none."""
    if get_origin(hint) is Literal:
        return OneOf(*get_args(hint))
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, (Between, OneOf))]
    inner = (found for one in get_args(hint) if (found := limits(one)) is not None)
    return marks[0] if marks else next(inner, None)


def spell(hint: Any) -> str:
    """A type as one writes it, without range marks: `float`, `int | None`, `tuple[int, ...]`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return spell(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(spell, inner))
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(spell, inner))}]"
    return {types.NoneType: "None", ...: "..."}.get(hint) or str(getattr(hint, "__name__", hint))


def default(field: Field[Any]) -> Any:
    """What a field of a dataclass holds when nothing is said, MISSING where it must be said."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def check(method: Any) -> None:
    """Raise ValueError unless every field of this one method has the type and the range that it declares.

    A method stores what it is given; this is called where work begins, and by `recipe.parse`.
    """
    cls = type(method)
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        fit(getattr(method, field.name), hints[field.name], cls.__name__, field.name, default(field))


def fit(value: Any, hint: Any, owner: str, name: str, example: Any = MISSING) -> Any:
    """`value` as the type `hint` wants it: a list becomes a tuple, 1 becomes 1.0 where a float is wanted.

    Raises ValueError with what was found, what was expected and, from `example`, what to type: `owner(name=example)`.
    """
    try:
        return _fit(value, hint)
    except _Misfit as no:
        call = "" if example is MISSING else f"; type for example {owner}({name}={example!r})"
        found = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise ValueError(f"{owner}({name}=...): found {found}, expected {no}{call}") from None


class _Misfit(Exception):
    """Says what was expected; `fit` makes a sentence of it."""


def _fit(value: Any, hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _fit(value, inner[0])
        for mark in inner[1:]:
            _within(value, mark)
        return value
    if origin is Literal:
        _within(value, OneOf(*inner))
        return value
    if origin in (Union, types.UnionType):
        return _either(value, inner)
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, (tuple, list)) and inner[-1] is ... else inner
        if not isinstance(value, (tuple, list)) or len(value) != len(kinds):
            raise _Misfit(f"a {spell(hint)}")
        return tuple(_fit(each, kind) for each, kind in zip(value, kinds, strict=True))
    return _plain(value, hint)


def _either(value: Any, options: tuple[Any, ...]) -> Any:
    wanted: list[str] = []
    for option in options:
        try:
            return _fit(value, option)
        except _Misfit as no:
            wanted.append(str(no))
    raise _Misfit(" or ".join(wanted))


def _plain(value: Any, hint: Any) -> Any:
    if hint is float and _number(value) and -math.inf < value < math.inf:
        return float(value) if abs(value) < 2**53 else value
    fits = isinstance(value, hint) if hint in (bool, str, types.NoneType) else hint is int and type(value) is int
    if hint is Any or fits:
        return value
    raise _Misfit(WANTED.get(hint) or spell(hint))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)  # True is an int to Python, not to a reader


def _within(value: Any, mark: Any) -> None:
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(mark, Between) and each is not None and not (_number(each) and mark.lo <= each <= mark.hi):
            raise _Misfit(f"a number from {plain(mark.lo)} to {plain(mark.hi)}")
        if isinstance(mark, OneOf) and (type(each), each) not in [(type(one), one) for one in mark.choices]:
            raise _Misfit(f"one of {', '.join(map(repr, mark.choices))}")
