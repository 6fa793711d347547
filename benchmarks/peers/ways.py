"""Less work for each text: early exit, skipped tokens, half the structure, and all of it at once, beside the ideal.

Who leaves where is made up, and the same in every run: texts exit by a score of the hidden states whose thresholds give
the shares in EXITS, and every other token goes in the middle of the third layer.  So this shows what engines make of
less work; what it costs in accuracy is a matter of methods and of trained models.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer import artefact
from gossamer.anatomy import blocks
from gossamer.gates import compact
from gossamer.runtime.walks import Walk
from gossamer.task import Read
from gossamer.walking import walk

from . import speed
from .contestants import Contestant, gossamer, opened
from .shapes import Folders, bounded, described, once, stamp, texts

# Shares of the texts that leave after these layers; half the depth on average.
EXITS: dict[int, dict[int, float]] = {6: {1: 0.4, 3: 0.2, 4: 0.2, 6: 0.2}, 12: {3: 0.4, 6: 0.3, 9: 0.2, 12: 0.1}}
HALVES = 3  # the layer in which every other token goes
KINDS = ("whole", "exits", "tokens", "exits and tokens", "half", "all")
ENGINES = ("onnxruntime", "openvino")
ROUNDING = "Int8(static=True)"  # of ours
PEERS = ("ONNX Runtime int8", "OpenVINO int8")


class Scored(Walk):
    """Texts leave by a fixed random score of their first token's hidden state."""

    dynamic = True

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.where = [layer for layer in EXITS[layers] if layer < layers]
        self.register_buffer("score", torch.randn(width, generator=draw))
        self.register_buffer("head", torch.randn(2, width, generator=draw) / width**0.5)
        self.register_buffer("cuts", torch.full((len(self.where),), float("inf")))
        self.told: Callable[[Tensor], None] | None = None

    def depart(self, passage: Any) -> None:
        """Those above the layer's threshold have their answer."""
        if not self.stops(passage.step):
            return
        first = passage.firsts(passage.x)
        score = first @ self.get_buffer("score")
        if self.told is not None:
            self.told(score)
        cut = self.get_buffer("cuts")[self.where.index(passage.step + 1)]
        passage.answer(first @ self.get_buffer("head").T, score > cut)

    def stops(self, step: int) -> bool:
        """After these layers only."""
        return step + 1 in self.where


class Halved(Walk):
    """Every other token goes, in the middle of one layer."""

    dynamic = True

    def between(self, passage: Any, heard: Any) -> None:
        """The first one stays."""
        if self.drops(passage.step):
            passage.keep_tokens(passage.tokens % 2 == 0)

    def drops(self, step: int) -> bool:
        """Once."""
        return step + 1 == HALVES


def measure(shape: str, folders: Folders, options: Any) -> dict[str, Any]:
    """Seconds of each round by kind and engine, and the ideal; options as in speed."""
    torch.set_num_threads(options.threads)
    asked = texts(options.quick)
    ideal = write(folders, asked.skewed)
    contestants, absent = opened(folders, options.threads, False, PEERS)
    contestants = [one for one in contestants if one.predictor is None]
    failed: dict[str, str] = {}
    for engine in ENGINES:
        for kind in KINDS:
            ask, predictor = gossamer(place(folders, kind), engine, options.threads)
            contestants.append(Contestant(f"gossamer {engine} int8, {kind}", "int8", ask, predictor))
    loads = [one for one in speed.loads(asked, singles=1, bulk=False) if one.name in ("arrival", "sorted")]
    loads.append(
        speed.Load(
            "alone",
            "one text at a time",
            lambda turn: [[one] for one in asked.skewed],
            size=1,
            warm=speed.lengths(asked.skewed),
        )
    )
    laps, notes, _ = speed.rounds(contestants, loads, [], options.rounds, failed)
    return {
        "shape": shape,
        "texts": described(asked.skewed),
        "ideal": ideal,
        "rounding": ROUNDING,
        "turns": [speed.SINGLES, speed.BATCHES],
        "rounds": notes,
        "absent": absent | failed,
        "seconds": {name: speed.passes(found) for name, found in laps.items() if name not in failed},
    }


def place(folders: Folders, kind: str) -> Path:
    """The artefact of a kind."""
    return folders.static if kind == "whole" else folders.root / f"static-{kind.replace(' ', '-')}"


def write(folders: Folders, reads: Sequence[Read]) -> dict[str, float]:
    """Write what is missing; how many times less work each kind is, in multiply-accumulates of linear layers."""
    for kind in KINDS[1:]:
        once(place(folders, kind), stamp(), partial(_artefact, folders.plain, kind, reads))
    layers = int(artefact.load(folders.plain).config.num_hidden_layers)
    return {kind: _work("whole", layers) / _work(kind, layers) for kind in KINDS}


def _work(kind: str, layers: int) -> float:
    """Of a token, in products of d x d: 4 of attention and 8 of feed-forward a layer.

    In the last layer only keys and values are computed for every token: a text's first token needs the rest.
    """
    exits = EXITS[layers] if kind in ("exits", "exits and tokens", "all") else {layers: 1.0}
    thin = kind in ("tokens", "exits and tokens", "all")
    total = 0.0
    for end, share in exits.items():
        for layer in range(1, end + 1):
            before = 0.5 if thin and layer > HALVES else 1.0
            after = 0.5 if thin and layer >= HALVES else 1.0
            total += share * (2 * before if layer == layers else 4 * before + 8 * after)
    return total / 2 if kind in ("half", "all") else total


def _artefact(plain: Path, kind: str, reads: Sequence[Read], part: Path) -> None:
    """The plain model rounded, halved and walked as its kind asks."""
    from transformers import AutoTokenizer

    from gossamer.engines import export

    tokenizer = AutoTokenizer.from_pretrained(plain)
    model = deepcopy(artefact.load(plain)).eval()
    if kind in ("half", "all"):
        _halve(model)
    bounded(model)
    walking = deepcopy(model)
    if "exits" in kind or kind == "all":
        walk(walking, Scored(model.config.hidden_size, model.config.num_hidden_layers))
    if "tokens" in kind or kind == "all":
        walk(walking, Halved())
    _aim(walking, reads)

    def graphs(folder: Path) -> None:
        export.write(walking, tokenizer, folder)

    artefact.save(model, part, tokenizer=tokenizer, also=graphs, verify=False)


@torch.no_grad()
def _halve(model: Any) -> None:
    """The second half of every layer's heads and neurons goes."""
    for block in blocks(model):
        for name in ("o", "down"):
            linear: Any = block.part(name)
            linear.weight[:, linear.in_features // 2 :] = 0
    for block in blocks(model):
        gone: Any = block.part("up")
        gone.bias[gone.out_features // 2 :] = 0
    compact(model)


@torch.no_grad()
def _aim(model: Any, reads: Sequence[Read]) -> None:
    """Thresholds by which the shares in EXITS leave."""
    found = [m for m in model.modules() if isinstance(m, Scored)]
    for way in found:
        going = list(range(len(reads)))
        shares, total = EXITS[int(model.config.num_hidden_layers)], len(reads)
        for at, layer in enumerate(way.where):
            scores = _scores(model, way, [reads[i] for i in going], at)
            leaving = round(shares[layer] * total)
            order = sorted(range(len(going)), key=[-score for score in scores].__getitem__)
            way.get_buffer("cuts")[at] = (scores[order[leaving - 1]] + scores[order[leaving]]) / 2
            going = [going[i] for i in sorted(order[leaving:])]


def _scores(model: Any, way: Scored, reads: Sequence[Read], at: int) -> list[float]:
    """What texts that come so far score there; one at a time."""
    found = list[float]()
    for one in reads:
        seen = list[Tensor]()
        way.told = seen.append
        model(torch.tensor([one.ids]))
        found.append(float(seen[at]))
    way.told = None
    return found
