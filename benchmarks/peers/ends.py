"""From English text to logits: tokenizer and model together, and what of it is the tokenizer's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np

from gossamer.task import Read

from .contestants import CT2_INT8, EAGER, ORT_INT8, OV_INT8, Contestant, opened
from .shapes import Folders, say
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
    """Seconds of each round, whole and the tokenizer's, by name; {} for a shape that reads no English."""
    if shape not in SHAPES:
        return {}
    import torch

    from gossamer.data import read

    torch.set_num_threads(options.threads)
    data = read("rotten-tomatoes")
    assert data.test is not None
    texts = list(data.test.texts)[:TEXTS]
    sides, absent = _sides(folders, options.threads)
    rounds = options.rounds
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
    lengths = [len(one.ids) for one in _encoded(folders)(texts)]
    told = {"texts": len(texts), "mean": round(mean(lengths), 1), "max": max(lengths)}
    return {"texts": told, "sides": found, "absent": absent, "rounds": notes}


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
