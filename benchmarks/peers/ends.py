"""From English text to logits: tokenizer and model together, and what of it is the tokenizer's.

Two parts, each in a process of its own: the same English in pieces as long as the skewed texts of the other parts, for
which the goal is, and film reviews as they are, whose lengths differ less.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np

from gossamer.task import Read

from .contestants import CT2_INT8, EAGER, ORT_INT8, OV_INT8, Contestant, opened
from .shapes import SEED, Folders, drawn, say
from .speed import CHUNK, REST, uncollected, watched

TEXTS = 384
PEERS = (ORT_INT8, OV_INT8, CT2_INT8)
SHAPES = ("minilm",)  # the other one's words mean nothing to it, and its tokenizer is the same


@dataclass(frozen=True, eq=False)
class Side:
    """whole(texts) -> logits; read(texts): the part that needs no model."""

    whole: Callable[[Sequence[str]], Any]
    read: Callable[[Sequence[str]], Any]


def measure(shape: str, folders: Folders, options: Any) -> dict[str, Any]:
    """Film reviews: seconds of each round, whole and the tokenizer's, by name; {} for a shape that reads no English."""
    return _measure(_reviews()[:TEXTS], folders, options) if shape in SHAPES else {}


def measure_skewed(shape: str, folders: Folders, options: Any) -> dict[str, Any]:
    """The same of skewed lengths."""
    return _measure(skewed(folders, TEXTS), folders, options) if shape in SHAPES else {}


def _measure(texts: list[str], folders: Folders, options: Any) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    sides, absent = _sides(folders, options.threads)
    lengths = [len(one.ids) for one in _encoded(folders)(texts)]
    told = {"texts": len(texts), "mean": round(mean(lengths), 1), "max": max(lengths)}
    return {"texts": told, **_turns(sides, texts, options.rounds), "absent": absent}


def skewed(folders: Folders, count: int) -> list[str]:
    """Film reviews laid end to end and cut, within words too, to lengths that are distributed as elsewhere."""
    from tokenizers import Tokenizer

    whole = " ".join(_reviews())
    tokenizer = Tokenizer.from_file(str(folders.plain / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    places = tokenizer.encode(whole, add_special_tokens=False).offsets
    found, at = [], 0
    for length in drawn(count, random.Random(SEED)):
        end = at + length - 2  # [CLS] and [SEP] come with it
        found.append(whole[places[at][0] : places[end - 1][1]])
        at = end
    return found


def _reviews() -> list[str]:
    from gossamer.data import read

    data = read("rotten-tomatoes")
    assert data.test is not None
    return list(data.test.texts)


def _turns(sides: dict[str, Side], texts: list[str], rounds: int) -> dict[str, Any]:
    """Everybody in turn; the first round does not count."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "tokenizer": []} for name in sides}
    wanted: Any = None
    notes = []
    for turn in range(-1, rounds):
        with watched() as note, uncollected():
            shift = turn % len(sides)
            for name in [*sides, *sides][shift : shift + len(sides)] if turn >= 0 else sides:
                side = sides[name]
                time.sleep(REST)
                laps = _timed(side.whole, texts), _timed(side.read, texts)
                if turn < 0:
                    said = side.whole(texts)
                    wanted = said if wanted is None else wanted
                    found[name]["same"] = round(float(np.mean(said.argmax(1) == wanted.argmax(1))), 4)
                else:
                    found[name]["seconds"].append(round(laps[0], 5))
                    found[name]["tokenizer"].append(round(laps[1], 6))
        notes += [note] if turn >= 0 else []
    for name, one in found.items():
        say(f"    {name}: {len(texts) / median(one['seconds']):.0f} texts/s")
    return {"sides": found, "rounds": notes}


def _timed(work: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    began = time.perf_counter()
    work(texts)
    return time.perf_counter() - began


def _sides(folders: Folders, threads: int) -> tuple[dict[str, Side], dict[str, str]]:
    """The yardstick as people run it, in the order of arrival; peers sorted; ours by its own call."""
    from gossamer.measure.eager import eager

    plain = eager(folders.plain)
    sides = {
        EAGER: Side(
            lambda texts: plain.logits(texts, batch_size=CHUNK),
            lambda texts: [plain.tokenizer(texts[at : at + CHUNK]) for at in range(0, len(texts), CHUNK)],
        )
    }
    encoded = _encoded(folders)
    contestants, absent = opened(folders, threads, compiled=False, among=("int8",))
    for one in contestants:
        if one.predictor is not None:
            sides[one.name] = _ours(one)
        elif one.name.startswith(PEERS):
            sides[one.name] = Side(lambda texts, one=one: one.ask(encoded(texts), CHUNK), encoded)  # type: ignore[misc]
    return sides, absent


def _ours(one: Contestant) -> Side:
    return Side(lambda texts: one.predictor.logits(texts, batch_size=CHUNK), one.predictor.reads)


def _encoded(folders: Folders) -> Callable[[Sequence[str]], list[Read]]:
    """The tokenizer that the peers' users would take: the fast one, all texts at once."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folders.plain / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)

    def encoded(texts: Sequence[str]) -> list[Read]:
        return [Read(one.ids, one.type_ids, False) for one in tokenizer.encode_batch_fast(list(texts))]

    return encoded
