"""Numbers that are none: infinity and nan, which JSON cannot say and a table should not.

A report holds None in their place, and says why among the errors of the side.
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def broken(value: Any) -> list[str]:
    """Where in dicts and lists a number is not finite, as in "quality.high"; "" for the value itself."""
    return [".".join(way) for way, _ in _walk(value)]


def finite(value: Any) -> Any:
    """The same with None in place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def sound(side: Mapping[str, Any]) -> dict[str, Any]:
    """A side of a report, without the figures in which a number is not finite; its errors say which number."""
    found, errors = dict(side), dict(side.get("errors") or {})
    for figure, value in side.items():
        for way, number in _walk(value)[:1]:
            found[figure] = None
            words = f"found {number} in {'.'.join((figure, *way))}, expected a finite number"
            errors.setdefault(figure, f"ValueError: {words}")
    return found | {"errors": errors}


def healthy(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report whose sides are `sound`."""
    found = dict(report)
    for name in ("baseline", "compressed", "reseeded"):
        if found.get(name):
            found[name] = sound(found[name])
    if found.get("others"):
        found["others"] = [sound(one) for one in found["others"]]
    return found


def dumps(value: Any, **how: Any) -> str:
    """JSON as the standard has it: null in place of what is no number.

    how: what json.dumps takes.
    """
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, **how)


def _walk(value: Any, way: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        return [one for key, inner in value.items() for one in _walk(inner, (*way, str(key)))]
    if isinstance(value, (list, tuple)):
        return [one for i, inner in enumerate(value) for one in _walk(inner, (*way, str(i)))]
    return [(way, value)] if isinstance(value, float) and not isfinite(value) else []
