"""What a column of labels means: classes or numbers, and how the classes of data and of a model go together."""

import math
import re
from collections.abc import Iterable
from itertools import chain

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


def values(parts: dict[str, Rows], label: str) -> tuple[tuple[str, ...] | None, dict[str, Values]]:
    """The names of the classes (None: numbers), and by split the class index or the number of each example.

    Numbers with a fraction anywhere make a regression; whole numbers are classes in numeric order, words in that of the
    alphabet. The splits "train" and "whole" say which classes there are; without them all do. Raises ValueError: no
    labels at all, one that is empty or of a wrong type, fractions among words, one class only, a class unseen in
    training.
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

    if fractions and words:
        raise ValueError(
            f"{first(fractions[0])} has the number {fractions[0]} for a label, {first(words[0])} the word "
            f"'{words[0]}'; expected numbers only (regression) or names only (classes)"
        )
    if fractions:
        return None, {split: tuple(float(name) for name in names) for split, names in found.items()}
    classes = {name: name if words or WHOLE.fullmatch(name) else str(int(float(name))) for name in distinct}  # 1.0 is 1
    known = {classes[name] for name in (found[train] if train else distinct)}
    order = sorted(known) if words else sorted(known, key=lambda name: (int(name), name))
    strange = [name for name in distinct if classes[name] not in known]
    if strange:
        raise ValueError(
            f"{first(strange[0])}: the label '{strange[0]}' is unseen in training, where there are {some(order)}; "
            "correct it, or add such examples to train"
        )
    index = {name: order.index(classes[name]) for name in distinct if classes[name] in known}
    return tuple(order), {split: tuple(index[name] for name in names) for split, names in found.items()}


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
