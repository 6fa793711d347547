"""A recipe is an expression: `then(CoFi(0.6), Int8())`. Here it is parsed, checked and printed back.

The text is read with `ast` and never evaluated. The only names are the method classes found in `gossamer/methods/`, the
words `then` and `also`, and, in the second place of `also`, the losses of `gossamer.loss`. Arguments are literals.
Everything else is refused with a sentence. Nothing is registered: a method exists because its file does.
"""

import ast
import importlib
import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from gossamer.fields import Between, OneOf, check, default, fit, limits, spell

__all__ = ["Between", "OneOf", "Terms", "check", "describe", "methods", "parse", "unparse"]

LONGEST = 10_000  # characters; a `then` of ten methods with every field written out has about 3,000
DEEPEST = 30  # calls, operators and brackets inside one another
ALLOWED = "a recipe holds methods, then, also and plain values only, as in then(CoFi(0.6), Int8())"


def methods() -> dict[str, type]:
    """Every method by its name, in alphabetical order: the dataclasses with `rows` in `gossamer/methods/<family>/*.py`.

    Tests, private modules and folders without methods are passed over.
    """
    found: dict[str, type] = {}
    for file in sorted((Path(__file__).parent / "methods").glob("*/*.py")):
        if file.stem.startswith(("_", "test_", "conftest")):
            continue
        module = importlib.import_module(f"gossamer.methods.{file.parent.name}.{file.stem}")
        for item in vars(module).values():
            own = isinstance(item, type) and item.__module__ == module.__name__
            if own and {"rows", "__dataclass_fields__"} <= vars(item).keys():
                assert found.get(item.__name__, item) is item, f"two methods are called {item.__name__}"
                found[item.__name__] = item
    return dict(sorted(found.items()))


def describe(cls: type) -> dict[str, Any]:
    """What `gossamer methods` tells of one method, ready for JSON.

    Returns name, rows, kind, family (its folder), paper (the docstring's first paragraph, without the name), year, and
    fields: each with name, type, default, range ([lo, hi] or None) and choices (a list or None).
    """
    docs = [cls.__doc__ or "", getattr(inspect.getmodule(cls), "__doc__", None) or ""]  # the paper stands in either
    heads = [" ".join(doc.strip().split("\n\n")[0].split()) for doc in docs]
    paper = next((head for head in heads if re.search(r"\b(19|20)\d\d\b", head)), "")
    years = re.findall(r"\b(?:19|20)\d\d\b", paper)
    hints = get_type_hints(cls, include_extras=True)
    known: Any = cls
    return {
        "name": cls.__name__,
        "rows": list(getattr(cls, "rows", ())),
        "kind": getattr(cls, "kind", None),
        "family": cls.__module__.rpartition(".")[0].rpartition(".")[2],
        "paper": paper.partition(": ")[2] or paper,
        "year": int(years[-1]) if years else None,
        "fields": [_field(f, hints[f.name]) for f in fields(known)],
    }


def _field(one: Field[Any], hint: Any) -> dict[str, Any]:
    mark = limits(hint)
    return {
        "name": one.name,
        "type": spell(hint),
        "default": default(one),
        "range": [mark.lo, mark.hi] if isinstance(mark, Between) else None,
        "choices": list(mark.choices) if isinstance(mark, OneOf) else None,
    }


@dataclass(frozen=True)
class Terms:
    """A sum of weighted losses, written down. Called, it builds the losses anew: each stage trains its own."""

    text: str
    build: Callable[[], Any] = field(compare=False)

    def __repr__(self) -> str:
        """As it is written."""
        return self.text

    def __call__(self) -> Any:
        """A new loss."""
        return self.build()


def parse(text: str) -> Any:
    """The method that `text` spells.

    Raises ValueError, in one line that says what was found, what is expected and what to type, for anything but calls
    of methods, `then` and `also` with literal arguments of the declared types and ranges.
    """
    if not text.strip():
        raise ValueError(f"the recipe is empty; {ALLOWED}")
    if len(text) > LONGEST:
        raise ValueError(f"the recipe has {len(text):,} characters, expected at most {LONGEST:,}; {ALLOWED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray backslash is told in our words
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = _short(error.msg) if isinstance(error, SyntaxError) else "too deep, or not text"
        raise ValueError(f"the recipe is not an expression ({reason}): found {_short(text)}; {ALLOWED}") from None
    if _deep(tree):
        raise ValueError(f"the recipe is nested more than {DEEPEST} deep: found {_short(text)}; {ALLOWED}")
    return _method(tree)


def unparse(method: Any) -> str:
    """The text from which `parse` makes `method` again: its repr. Raises ValueError if that is no recipe."""
    text = repr(method)
    again = parse(text)
    if again != method and repr(again) != text:
        raise ValueError(f"found {_short(text)}, which reads back as {_short(repr(again))}; {ALLOWED}")
    return text


def _deep(tree: ast.AST) -> bool:
    level = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return bool(level)


def _method(node: ast.expr) -> Any:
    known = methods()
    if isinstance(node, ast.Name) and node.id in known:
        raise ValueError(f"found {node.id}, expected a call; type {node.id}()")
    name, call = _call(node)
    if name == "then":
        if call.keywords or not call.args:
            raise ValueError(f"found {_source(node)}, expected one or more methods; type then(CoFi(0.6), Int8())")
        return _word(name)(*map(_method, call.args))
    if name == "also":
        if call.keywords or len(call.args) != 2:
            raise ValueError(f"found {_source(node)}, expected a method and a loss; type also(CoFi(0.6), Logits(2.0))")
        return _word(name)(_method(call.args[0]), Terms(ast.unparse(call.args[1]), _loss(call.args[1])))
    if name not in known:
        raise _unknown("method", name, [*known, "then", "also"], "`gossamer methods` lists them all")
    return known[name](**_arguments(known[name], call))


def _word(name: str) -> Callable[..., Any]:
    word: Callable[..., Any] = getattr(importlib.import_module("gossamer.train"), name)  # late, as torch comes with it
    return word


def _loss(node: ast.expr) -> Callable[[], Any]:
    """What builds a loss: a class of `gossamer.loss` called with literals, `number * loss`, or `loss + loss`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _loss(node.left), _loss(node.right)
        return lambda: left() + right()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        weight, loss = _literal(node.left), _loss(node.right)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"found {_source(node)}, expected number * loss; type 0.5 * Logits(2.0)")
        return lambda: weight * loss()
    module = importlib.import_module("gossamer.loss")
    classes = {name: item for name, item in vars(module).items() if isinstance(item, type) and name[0] != "_"}
    known = {name: item for name, item in classes.items() if issubclass(item, module.Loss) and item is not module.Loss}
    name, call = _call(node)
    if name not in known:
        raise _unknown("loss", name, known, f"known: {', '.join(sorted(known))}")
    return partial(known[name], **_arguments(known[name], call))


def _call(node: ast.expr) -> tuple[str, ast.Call]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"found {_source(node)}; {ALLOWED}")
    return node.func.id, node


def _arguments(cls: type, call: ast.Call) -> dict[str, Any]:
    """The arguments of a call of `cls` by name; each is a literal that fits its parameter."""
    name, parameters = cls.__name__, dict(inspect.signature(cls).parameters)
    for starred in [key for key, one in parameters.items() if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]:
        del parameters[starred]  # of a class without its own __init__
    hints = get_type_hints(cls if is_dataclass(cls) else vars(cls).get("__init__", cls), include_extras=True)
    examples = {f.name: default(f) for f in fields(cls)} if is_dataclass(cls) else {}
    has = ", ".join(parameters) or "no fields"
    if len(call.args) > len(parameters):
        raise ValueError(f"{name}: found {len(call.args)} values, expected at most {len(parameters)} ({has})")
    given = [*zip(parameters, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
    values: dict[str, Any] = {}
    for key, node in given:
        if key is None:
            raise ValueError(f"found **{_source(node)}; {ALLOWED}")
        if key not in parameters:
            raise _unknown(f"field of {name}", key, parameters, f"it has {has}")
        if key in values:
            raise ValueError(f"{name}: found {key} twice, expected it once")
        values[key] = fit(_literal(node), hints.get(key, Any), name, key, examples.get(key, MISSING))
    missing = [key for key, one in parameters.items() if one.default is inspect.Parameter.empty and key not in values]
    if missing:
        raise ValueError(f"{name}: found no {', '.join(missing)}, expected a value; type {name}({missing[0]}=...)")
    return values


def _literal(node: ast.expr) -> Any:
    """A number, string, True, False, None, or a tuple or list of these."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, types.NoneType)):
        if isinstance(node.value, (int, float)) and not abs(node.value) < 2**63:  # infinity among them
            raise ValueError(f"found a number of 2**63 or more, expected a smaller one; {ALLOWED}")
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(map(_literal, node.elts))
    raise ValueError(f"found {_source(node)}, expected a plain value; {ALLOWED}")


def _unknown(what: str, name: str, known: Iterable[str], where: str) -> ValueError:
    low = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), low, n=1, cutoff=0.5)
    meant = f"did you mean {low[close[0]]}? " if close else ""
    return ValueError(f"no {what} is called {_short(name)!r}; {meant}{where}")


def _source(node: ast.expr) -> str:
    return _short(ast.unparse(node))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
