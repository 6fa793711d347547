"""What a column of labels means: classes or numbers, and how the classes of data and of a model go together."""

import math
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

from gossamer.rows import Rows, glimpse, no_column

WHOLE = re.compile(r"[+-]?\d+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Values = tuple[int | float, ...]


def some(names: Iterable[str]) -> str:
    """Names in quotes, at most ten of them."""
    shown = list(names)
    return ", ".join(f"'{name[:40]}'" for name in shown[:10]) + (f", ... ({len(shown)})" if len(shown) > 10 else "")


def number(label: str) -> float | None:
    """The finite number that a label spells, or None."""
    value = float(label) if NUMBER.fullmatch(label) else math.nan
    return value if math.isfinite(value) else None


def is_bare(rows: Rows) -> bool:
    """Whether no example has a label: no such column, or nothing in it."""
    return rows.labels is None or all(label is None or label == "" for label in rows.labels)


def spelled(rows: Rows) -> list[str]:
    """The labels as strings, without the space around them. ValueError: one is empty or of a wrong type, by line."""
    found = []
    for place, label in zip(rows.places, rows.labels or (), strict=True):
        if label is None or label != label or (isinstance(label, str) and not label.strip()):  # NaN differs from itself
            raise ValueError(f"{rows.name}, line {place}: the label is empty; give it one, or drop the line")
        if not isinstance(label, (str, int, float)):
            raise ValueError(f"{rows.name}, line {place}: the label is {glimpse(label)}, expected a string or a number")
        found.append(str(label).lower() if isinstance(label, bool) else str(label).strip())
    return found


def values(
    parts: dict[str, Rows], label: str, classes: bool = False
) -> tuple[tuple[str, ...] | None, dict[str, Values]]:
    """The names of the classes (None: numbers), and by split the class index or the number of each example.

    Numbers with a fraction anywhere make a regression; whole numbers are classes in numeric order, words in that of the
    alphabet. classes: they are classes whatever they look like. The splits "train" and "whole" say which classes there
    are; without them all do. Raises ValueError: no labels at all, one that is empty or of a wrong type, fractions among
    words, one class only, a class unseen in training.
    """
    train = next((split for split in ("train", "whole") if split in parts), None)
    bare = [rows for split, rows in parts.items() if is_bare(rows) and (split == train or not train)]
    if bare:
        if label not in bare[0].columns:
            raise no_column(bare[0].name, label, bare[0].columns, "label")
        raise ValueError(f"{bare[0].name}: every '{label}' is empty, expected a class or a number on each line")
    found = {split: spelled(rows) for split, rows in parts.items() if not is_bare(rows)}
    if train and len(set(found[train])) == 1:
        raise ValueError(
            f"{parts[train].name} has one class only: all of its {len(found[train]):,} examples have the label "
            f"'{found[train][0]}'; expected two classes or more (or, for a regression, different numbers)"
        )
    distinct = dict.fromkeys(chain.from_iterable(found.values()))
    fractions = [name for name in distinct if (number(name) or 0) % 1]
    words = [name for name in distinct if number(name) is None]

    def first(name: str) -> str:
        split = next(split for split, names in found.items() if name in names)
        return f"{parts[split].name}, line {parts[split].places[found[split].index(name)]}"

    if classes and fractions:  # then numbers are names
        words, fractions = list(distinct), []
    if fractions and words:
        raise ValueError(
            f"{first(fractions[0])} has the number {fractions[0]} for a label, {first(words[0])} the word "
            f"'{words[0]}'; expected numbers only (regression) or names only (classes)"
        )
    if fractions:
        return None, {split: tuple(float(name) for name in names) for split, names in found.items()}
    called = {name: name if words or WHOLE.fullmatch(name) else str(int(float(name))) for name in distinct}  # 1.0 is 1
    known = {called[name] for name in (found[train] if train else distinct)}
    order = sorted(known) if words else sorted(known, key=lambda name: (int(name), name))
    strange = [name for name in distinct if called[name] not in known]
    if strange:
        raise ValueError(
            f"{first(strange[0])}: the label '{strange[0]}' is unseen in training, where there are {some(order)}; "
            "correct it, or add such examples to train"
        )
    index = {name: order.index(called[name]) for name in distinct if called[name] in known}
    return tuple(order), {split: tuple(index[name] for name in names) for split, names in found.items()}


def tags(parts: dict[str, Rows], label: str) -> tuple[tuple[str, ...], dict[str, tuple[Any, ...]]]:
    """The names of the tags, and by split a tuple of class indices for each example, one for each word.

    A cell is a list of names or numbers, or one string with spaces between them.  The splits "train" and "whole" say
    which tags there are; without them all do.  ValueError: no tags, or something else in their place; a tag that is
    unseen in training.
    """
    parts = _labelled(parts, label)
    found = {split: [_tags(rows, i, label) for i in range(len(rows.texts))] for split, rows in parts.items()}
    train = next((split for split in ("train", "whole") if split in parts), None)
    known = {tag for one in (found[train] if train else chain.from_iterable(found.values())) for tag in one}
    order = sorted(known, key=lambda tag: (tag != "O", int(tag) if tag.isdecimal() else 0, tag))
    index = {tag: i for i, tag in enumerate(order)}
    for split, rows in parts.items():
        for place, one in zip(rows.places, found[split], strict=True):
            strange = [tag for tag in one if tag not in index]
            if strange:
                raise ValueError(
                    f"{rows.name}, line {place}: the tag '{strange[0]}' is unseen in training, where there are "
                    f"{some(order)}; correct it, or add such examples to train"
                )
    return tuple(order), {split: tuple(tuple(index[t] for t in one) for one in all_) for split, all_ in found.items()}


def _labelled(parts: dict[str, Rows], label: str) -> dict[str, Rows]:
    """The splits that have labels.  ValueError: those to train on have none, or none has."""
    for split, rows in parts.items():
        if is_bare(rows) and (split in ("train", "whole") or all(map(is_bare, parts.values()))):
            if label not in rows.columns:
                raise no_column(rows.name, label, rows.columns, "label")
            raise ValueError(f"{rows.name}: every '{label}' is empty, expected something on each line")
    return {split: rows for split, rows in parts.items() if not is_bare(rows)}


def _tags(rows: Rows, i: int, label: str) -> list[str]:
    assert rows.labels is not None
    cell = rows.labels[i]
    found = cell.split() if isinstance(cell, str) else cell
    printed = isinstance(cell, str) and cell.startswith("[")  # as Python prints a list: the quotes would become tags
    whole = isinstance(found, list) and all(isinstance(tag, (str, int)) and str(tag).strip() for tag in found)
    if printed or not whole:
        where = f"{rows.name}, line {rows.places[i]}"
        raise ValueError(
            f"{where}: '{label}' is {glimpse(cell)}, expected a list of tags, one for each word, or one string of them "
            "with spaces between"
        )
    return [str(tag).strip() for tag in found]


def passages(parts: dict[str, Rows], label: str) -> dict[str, tuple[Any, ...]]:
    """By split, for each question the tuple of its answers (text, first character in the context).

    A cell is {"text": [...], "answer_start": [...]}, or a list of such with one of each.  ValueError: something else,
    or an answer that does not stand where it says.
    """
    parts = _labelled(parts, label)
    return {split: tuple(_passages(rows, i, label) for i in range(len(rows.texts))) for split, rows in parts.items()}


def _passages(rows: Rows, i: int, label: str) -> tuple[tuple[str, int], ...]:
    assert rows.labels is not None
    cell, where = rows.labels[i], f"{rows.name}, line {rows.places[i]}"
    try:
        if isinstance(cell, dict):
            found = list(zip(cell["text"], cell["answer_start"], strict=True))
        else:
            found = [(one["text"], one["answer_start"]) for one in cell or ()]
        pairs = tuple((str(text), int(start)) for text, start in found)
    except (KeyError, TypeError, ValueError) as error:
        shape = '{"text": [...], "answer_start": [...]}'
        raise ValueError(f"{where}: '{label}' is {glimpse(cell)}, expected {shape}") from error
    context = rows.pairs[i] if rows.pairs else ""
    for text, start in pairs:
        if context[start : start + len(text)] != text:
            raise ValueError(
                f"{where}: the context has '{context[start : start + len(text)][:30]}' at character {start}, expected "
                f"the answer '{text[:30]}'; correct answer_start"
            )
    return pairs


def targets(parts: dict[str, Rows], label: str) -> dict[str, tuple[Any, ...]]:
    """By split the target texts.  ValueError: there are none, or one is no string."""
    parts = _labelled(parts, label)
    for rows in parts.values():
        for place, cell in zip(rows.places, rows.labels or (), strict=True):
            if not isinstance(cell, str):
                raise ValueError(f"{rows.name}, line {place}: '{label}' is {glimpse(cell)}, expected a text")
    return {split: tuple(rows.labels or ()) for split, rows in parts.items()}


def numbers(parts: dict[str, Rows], label: str) -> dict[str, tuple[Any, ...]]:
    """By split the labels as numbers, whole ones too.  ValueError: there are none, or one is no number."""
    parts = _labelled(parts, label)
    found = {split: spelled(rows) for split, rows in parts.items()}
    for split, names in found.items():
        for place, name in zip(parts[split].places, names, strict=True):
            if number(name) is None:
                raise ValueError(f"{parts[split].name}, line {place}: '{label}' is '{name[:30]}', expected a number")
    return {split: tuple(float(name) for name in names) for split, names in found.items()}


def translation(have: tuple[str, ...], know: tuple[str, ...] | None, name: str) -> Values:
    """For each class that data has, the index that a model knows it by; know: None if the model answers with numbers.

    Classes match by name; else whole numbers are the model's class indices; else, where the model's classes have no
    names (LABEL_0 ...), by order. ValueError: a class that the model does not know, words where it has numbers.
    """
    numbers = [number(label) for label in have]
    if know is None:
        if None in numbers:
            raise ValueError(
                f"{name} has the classes {some(have)}, but the model answers with a number; expected numbers"
            )
        return tuple(float(label) for label in have)
    if set(have) <= set(know):
        return tuple(know.index(label) for label in have)
    if all(value in range(len(know)) for value in numbers):
        return tuple(int(label) for label in have)
    if know == tuple(f"LABEL_{i}" for i in range(len(have))):
        return tuple(range(len(have)))
    raise ValueError(
        f"{name} has among its labels {some(sorted(set(have) - set(know)))}, unseen in training; the model knows "
        f"{some(know)}: correct the labels, or train on data that has them"
    )
