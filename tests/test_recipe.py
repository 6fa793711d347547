"""Recipes: what is found, what is read, what is refused, and that what is printed is read again."""

import sys
import types
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import fields as gossamer_fields
from gossamer import recipe
from gossamer.recipe import Between, OneOf, check, describe, parse, unparse


@dataclass(frozen=True)
class Prune:
    """Prune: Learning to Be Small (Doe & Roe, EMNLP 2021).

    Cuts what nobody misses.
    """

    rows: ClassVar[tuple[str, ...]] = ("prune", "prune_again")
    kind: ClassVar[str] = "cut"
    sparsity: Annotated[float, Between(0.05, 0.98)] = 0.6
    layers: Annotated[int | None, Between(1, 48)] = None
    schedule: Literal["linear", "cubic"] = "cubic"
    whole: bool = True
    name: str = "mask"
    steps: tuple[Annotated[float, Between(0, 1)], ...] = (0.5, 0.7)


@dataclass(frozen=True)
class Round:
    """Round: Numbers Without Fractions (Poe, ICML 2020)."""

    rows: ClassVar[tuple[str, ...]] = ("round",)
    kind: ClassVar[str] = "settle"
    bits: Annotated[int, OneOf(2, 4, 8)] = 8
    shape: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Then:
    methods: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"then({', '.join(map(repr, self.methods))})"


@dataclass(frozen=True)
class Also:
    method: Any
    loss: Any

    def __repr__(self) -> str:
        return f"also({self.method!r}, {self.loss!r})"


class Loss:
    terms: tuple[tuple[float, str, tuple[Any, ...]], ...] = ()

    def __add__(self, other: "Loss") -> "Loss":
        return Loss.of(self.terms + other.terms)

    def __rmul__(self, weight: float) -> "Loss":
        return Loss.of(tuple((weight * w, name, args) for w, name, args in self.terms))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and self.terms == other.terms

    def __repr__(self) -> str:
        return " + ".join(f"{w} * {name}({', '.join(map(repr, args))})" for w, name, args in self.terms)

    @staticmethod
    def of(terms: tuple[tuple[float, str, tuple[Any, ...]], ...]) -> "Loss":
        sum_ = Loss()
        sum_.terms = terms
        return sum_


class Logits(Loss):
    def __init__(self, heat: float = 1.0) -> None:
        self.terms = ((1.0, "Logits", (heat,)),)


class Hidden(Loss):
    def __init__(self, width: int, other: Any = None) -> None:
        self.terms = ((1.0, "Hidden", (width,)),)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods, two losses and the two words, in place of the package's own."""
    monkeypatch.setattr(recipe, "methods", lambda: {"Prune": Prune, "Round": Round})
    words = types.SimpleNamespace(then=lambda *methods: Then(methods), also=Also)
    monkeypatch.setitem(sys.modules, "gossamer.train", words)
    monkeypatch.setitem(sys.modules, "gossamer.loss", types.SimpleNamespace(Loss=Loss, Logits=Logits, Hidden=Hidden))


def drawn(hint: Any) -> st.SearchStrategy[Any]:
    return {
        "sparsity": st.floats(0.05, 0.98),
        "layers": st.none() | st.integers(1, 48),
        "schedule": st.sampled_from(["linear", "cubic"]),
        "whole": st.booleans(),
        "name": st.text(max_size=20),
        "steps": st.lists(st.floats(0, 1), max_size=4).map(tuple),
        "bits": st.sampled_from([2, 4, 8]),
        "shape": st.tuples(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62)),
    }[hint]


def instances(cls: Any) -> st.SearchStrategy[Any]:
    return st.builds(cls, **{field.name: drawn(field.name) for field in fields(cls)})


singles = instances(Prune) | instances(Round)
thens = st.recursive(singles, lambda some: st.lists(some, min_size=1, max_size=3).map(lambda m: Then(tuple(m))))


@settings(deadline=None)
@given(thens)
def test_what_is_printed_is_read_again(method: Any) -> None:
    assert parse(unparse(method)) == method
    assert parse(f"  {method!r}\n") == method


@settings(deadline=None)
@given(singles, st.floats(0.1, 10), st.integers(1, 999))
def test_losses_are_sums_of_products(method: Any, heat: float, width: int) -> None:
    loss = f"0.5 * Logits({heat!r}) + Hidden({width}) + 2 * (Logits() + Hidden(width=3))"
    whole = parse(f"also({method!r}, {loss})")
    assert whole.loss() is not whole.loss()  # every stage trains its own
    assert whole.loss().terms == (
        (0.5, "Logits", (heat,)),
        (1.0, "Hidden", (width,)),
        (2.0, "Logits", (1.0,)),
        (2.0, "Hidden", (3,)),
    )
    assert parse(unparse(whole)) == whole


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="PruneRodthalso()[]{}=,.+-*/'\"0123456789 :_@|&<!%\\\n\t", max_size=60) | st.text(max_size=40))
def test_any_text_is_a_method_or_a_value_error(text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert len(str(error)) < 400


def test_positions_keywords_and_conversions() -> None:
    assert parse("Prune(0.5, 3, schedule='linear', steps=[0, 1])") == Prune(0.5, 3, "linear", steps=(0.0, 1.0))
    assert isinstance(parse("Prune(steps=(0, 1))").steps[0], float)
    assert parse("Round(shape=(-1, 2))").shape == (-1, 2)
    assert parse("then(Prune(),\n  Round(4),  # small\n)") == Then((Prune(), Round(4)))


HOSTILE = [
    "__import__('os').system('true')",
    "Prune.__class__",
    "Prune().__class__()",
    "Prune().sparsity",
    "().__class__.__bases__[0].__subclasses__()",
    "eval('1')",
    "open('/etc/passwd')",
    "print(1)",
    "lambda: Prune()",
    "(lambda: Prune())()",
    "[Prune() for _ in range(9)]",
    "then(*[Prune()])",
    "then(*(Prune() for _ in 'ab'))",
    "then(methods=Prune())",
    "then(Prune(), 3)",
    "then(Prune(), Logits())",
    "also(Prune(), Prune())",
    "also(Prune(), Logits().__class__())",
    "also(Prune(), Logits() * 2)",
    "also(Prune(), Logits() - Logits())",
    "also(Prune(), 'a' * Logits())",
    "also(Prune(), True * Loss())",
    "also(Prune(), Loss())",
    "also(Prune(), 9e999 * Logits())",
    "also(Prune(), 0.5)",
    "Prune(**{'sparsity': 0.5})",
    "Prune(*[0.5])",
    "Prune(sparsity=Round())",
    "Prune(sparsity=Prune)",
    "Prune(name=f'{1}')",
    "Prune(name='a' 'b' + 'c')",
    "Prune(name='a' * 9)",
    "Prune(name=b'a')",
    "Prune(name=...)",
    "Prune(sparsity=1j)",
    "Prune(sparsity=0.1 + 0.2)",
    "Prune(sparsity=-True)",
    "Prune(sparsity=not 1)",
    "Prune(sparsity=~1)",
    "Prune(layers=10**10**10)",
    "Prune(layers=0x" + "f" * 9000 + ")",
    "Prune(layers=" + "9" * 9000 + ")",
    "Prune(sparsity=(x := 0.5))",
    "Prune(sparsity=0.5 if True else 0.6)",
    "Prune(sparsity=[0.5][0])",
    "Prune(sparsity={0.5})",
    "Prune(steps={1: 2})",
    "Prune() if True else Round()",
    "Prune() or Round()",
    "Prune() + Round()",
    "Prune(); Round()",
    "import os",
    "x = Prune()",
    "await Prune()",
    "yield Prune()",
    "Prune() < Round()",
    "{'a': Prune()}",
    "(Prune(), Round())",
    "Prune",
    "then",
    "then()",
    "also(Prune())",
    "also(Prune(), Logits(), Hidden(1))",
    "'Prune()'",
    "None",
    "1",
    "Prune(\x00)",
    "Prune('\ud800", "Prune(",
    "Prune())",
    "",
    "   \n ",
    "#",
    "(" * 5000,
    "-" * 9000 + "1",
    "1" + "+1" * 4000,
    "then(" * 40 + "Prune()" + ")" * 40,
    "Prune(steps=" + "[" * 90 + "]" * 90 + ")",
    "Prune(name='" + "a" * 20_000 + "')",
    "Prune(" + ",".join("0.5" for _ in range(2000)) + ")",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 400
    assert any(word in said for word in ("expected", "did you mean", "then(CoFi(0.6), Int8())", "known", "lists"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Prun()", "no method is called 'Prun'; did you mean Prune? `gossamer methods` lists them all"),
        ("prune(0.5)", "did you mean Prune?"),
        ("them(Prune(), Round())", "did you mean then?"),
        ("Xyzzy()", "no method is called 'Xyzzy'; `gossamer methods` lists them all"),
        ("Prune(sparcity=0.5)", "no field of Prune is called 'sparcity'; did you mean sparsity?"),
        ("also(Prune(), Logit())", "no loss is called 'Logit'; did you mean Logits? known: Hidden, Logits"),
        ("also(Prune(), Hidden())", "Hidden: found no width, expected a value; type Hidden(width=...)"),
        ("Prune", "found Prune, expected a call; type Prune()"),
        ("Prune(1.5)", "Prune(sparsity=...): found 1.5, expected a number from 0.05 to 0.98; type for example Pr"),
        ("Prune('0.5')", "found '0.5', expected a finite number"),
        ("Prune(True)", "found True, expected a finite number"),
        ("Prune(sparsity=None)", "found None, expected a finite number"),
        ("Prune(layers=0)", "found 0, expected a number from 1 to 48"),
        ("Prune(layers=1.5)", "found 1.5, expected a whole number or None"),
        ("Prune(schedule='cosine')", "found 'cosine', expected one of 'linear', 'cubic'"),
        ("Prune(whole=1)", "found 1, expected True or False"),
        ("Prune(name=1)", "found 1, expected a string in quotes"),
        ("Prune(steps=0.5)", "found 0.5, expected a tuple[float, ...]"),
        ("Prune(steps=(0.5, 2))", "found (0.5, 2), expected a number from 0 to 1"),
        ("Round(3)", "found 3, expected one of 2, 4, 8"),
        ("Round(8.0)", "found 8.0, expected a whole number"),
        ("Round(shape=(1, 2, 3))", "found (1, 2, 3), expected a tuple[int, int]"),
        ("Round(8, bits=8)", "Round: found bits twice, expected it once"),
        ("Round(8, (1, 2), 3)", "Round: found 3 values, expected at most 2 (bits, shape)"),
        ("Prune(1e999)", "found a number of 2**63 or more, expected a smaller one"),
        ("Prune(layers=9999999999999999999999)", "found a number of 2**63 or more, expected a smaller one"),
        ("Prune(name=str)", "found str, expected a plain value"),
    ],
)
def test_errors_say_found_expected_and_what_to_type(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert sentence in str(caught.value)


def test_check_reads_a_method_made_in_python() -> None:
    check(Prune())
    check(Prune(layers=3))
    with pytest.raises(ValueError, match=r"Prune\(sparsity=...\): found 2, expected a number from 0.05 to 0.98"):
        check(Prune(sparsity=2))


def test_unparse_refuses_what_no_recipe_can_say() -> None:
    with pytest.raises(ValueError):
        unparse(Prune(sparsity=float("inf")))
    with pytest.raises(ValueError):
        unparse(object())
    assert parse(unparse(Prune(steps=(1, 0)))) == Prune(steps=(1.0, 0.0))  # ints where floats are meant


def test_describe() -> None:
    told = describe(Prune)
    assert (told["name"], told["rows"], told["kind"], told["year"]) == ("Prune", ["prune", "prune_again"], "cut", 2021)
    assert told["paper"] == "Learning to Be Small (Doe & Roe, EMNLP 2021)."
    told_of = {field.pop("name"): field for field in told["fields"]}
    assert told_of["sparsity"] == {"type": "float", "default": 0.6, "range": [0.05, 0.98], "choices": None}
    assert told_of["layers"] == {"type": "int | None", "default": None, "range": [1, 48], "choices": None}
    assert told_of["schedule"]["type"] == "'linear' | 'cubic'"
    assert told_of["schedule"]["choices"] == ["linear", "cubic"]
    assert told_of["steps"] == {"type": "tuple[float, ...]", "default": (0.5, 0.7), "range": [0, 1], "choices": None}
    assert [field["choices"] for field in describe(Round)["fields"]] == [[2, 4, 8], None]


def test_marks_read_as_they_are_written() -> None:
    assert repr(OneOf(2, 4)) == "OneOf(2, 4)" and OneOf(2, 4) == OneOf(2, 4) and hash(OneOf(2)) == hash(OneOf(2))
    assert repr(Between(0, 1)) == "Between(lo=0, hi=1)"


def test_methods_are_found_by_walking(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.undo()
    family = tmp_path / "methods" / "pruning"
    family.mkdir(parents=True)
    (tmp_path / "methods" / "empty").mkdir()
    (family / "alpha.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "@dataclass(frozen=True)\nclass Alpha:\n    rows: ClassVar[tuple[str, ...]] = ('a',)\n    keep: float = 0.5\n"
        "@dataclass(frozen=True)\nclass Helper:\n    keep: float = 0.5\n"
        "class Other: pass\nAgain = Alpha\n"
    )
    (family / "test_alpha.py").write_text("raise RuntimeError('a test is not imported')")
    (family / "_private.py").write_text("raise RuntimeError('nor is a private module')")
    package = types.ModuleType("gossamer.methods")
    package.__path__ = [str(tmp_path / "methods")]
    for name in [name for name in sys.modules if name.startswith("gossamer.methods")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gossamer.methods", package)
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "recipe.py"))
    found = recipe.methods()
    assert list(found) == ["Alpha"]
    assert describe(found["Alpha"])["family"] == "pruning" and describe(found["Alpha"])["year"] is None
    for name in [name for name in sys.modules if name.startswith("gossamer.methods.")]:
        monkeypatch.delitem(sys.modules, name)


def test_every_method_of_the_package_keeps_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = recipe.methods()
    for name, cls in found.items():
        method = cls()
        check(method)
        assert parse(repr(method)) == method, name
        hints = get_type_hints(cls, include_extras=True)
        assert all(gossamer_fields.default(field) is not MISSING for field in fields(cls)), name
        assert all(gossamer_fields.spell(hint) for hint in hints.values()), name
