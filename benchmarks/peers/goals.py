"""What this project aims at, as ratios within one run, and what came out.

A goal is a function from results to rows, none where its figures are missing; GOALS is their order in the table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from .contestants import CT2_INT8, EAGER, ORT_INT8, OV_BF16, OV_INT8
from .shapes import SHAPES

Results = Mapping[str, Mapping[str, Any]]
Figures = Mapping[str, Any]  # of one shape
EXACT = 1e-4  # how far packed and padded logits may be apart in fp32

ARRIVAL = {  # of a shape: against whom, and how many times as fast
    "bert-base": ((OV_INT8, 2.8), (ORT_INT8, 4.5), (EAGER, 22.0)),
    "minilm": ((CT2_INT8, 2.5), (ORT_INT8, 4.5)),
}
COLD = {"minilm": (0.20, 100), "bert-base": (0.45, 250)}  # seconds, MiB
IDEAL = {"exits": 0.88, "tokens": 0.90}
ALL = {"bert-base": ((EAGER, 85.0), (OV_INT8, 10.0))}
SAME, LOST = 0.99, 0.3  # share of labels; points of accuracy
SORTED, BF16, ENDS, TOKENIZER = 1.5, 2.7, 25.0, 0.10


@dataclass(frozen=True)
class Row:
    """held: None where it cannot be told."""

    what: str
    goal: str
    found: str
    held: bool | None


def faster(one: Figures, slow: str, fast: str, load: str) -> float | None:
    """How many times as fast: the median of the ratios within rounds; None where either has not run."""
    sides = [one["contestants"].get(name, {}).get("seconds", {}).get(load) for name in (slow, fast)]
    if not all(sides):
        return None
    return median(a / b for a, b in zip(*sides, strict=False))


def per_second(one: Figures, name: str, load: str) -> float:
    """Texts a second."""
    return float(one["loads"][load]["texts"] / median(one["contestants"][name]["seconds"][load]))


def best(one: Figures, load: str, ours: bool = False, precision: str = "int8") -> str:
    """Who is fastest among the peers, or among ours; "" where nobody ran."""
    laps = {
        name: median(who["seconds"][load])
        for name, who in one["contestants"].items()
        if who["ours"] == ours and who["precision"] == precision and load in who["seconds"]
    }
    return min(laps, key=laps.__getitem__) if laps else ""


def share(one: Figures, name: str, load: str) -> float | None:
    """Of the rate at which this machine multiplies in this precision; None where that was not timed."""
    who, about = one["contestants"][name], one["loads"][load]
    rates = one["gemms"].get(who["precision"], {})
    if not rates:
        return None
    top = max(rates.values(), key=median)
    macs = about["tokens"] * one["macs"]["token"] + about["texts"] * one["macs"]["text"]
    return median(macs / seconds / rate for seconds, rate in zip(who["seconds"][load], top, strict=False))


def kin(seconds: Mapping[str, Mapping[str, Any]], peer: str, load: str) -> str:
    """The fastest of a peer's settings: its name, or its name and something after a comma.  seconds: by name, load."""
    laps = {name: median(found[load]) for name, found in seconds.items() if of(peer, name) and load in found}
    return min(laps, key=laps.__getitem__) if laps else peer


def of(peer: str, name: str) -> bool:
    """Whether a name is one of a peer's settings."""
    return name == peer or name.startswith(f"{peer},")


def seconds(one: Figures) -> dict[str, Mapping[str, Any]]:
    """Of each contestant, by load."""
    return {name: who["seconds"] for name, who in one["contestants"].items()}


def rows(results: Results) -> list[Row]:
    """All that can be told."""
    return [row for goal in GOALS for row in goal(results)]


def _against(one: Figures, load: str, peer: str, goal: float, what: str, precision: str = "int8") -> Iterator[Row]:
    mine, peer = best(one, load, ours=True, precision=precision), kin(seconds(one), peer, load)
    ratio = faster(one, peer, mine, load) if mine else None
    if ratio is not None:
        found = f"{ratio:.2f}x, by {mine}"
        yield Row(f"{SHAPES[one['shape']]}: {what}, against {peer}", f"{goal:g}x", found, ratio >= goal)


def arrival(results: Results) -> Iterator[Row]:
    """Batches as they come."""
    for shape, one in results.get("speed", {}).items():
        for peer, goal in ARRIVAL[shape]:
            yield from _against(one, "arrival", peer, goal, "int8, batches of 32 in the order of arrival")


def at_once(results: Results) -> Iterator[Row]:
    """Peers may sort."""
    for one in results.get("speed", {}).values():
        yield from _against(one, "sorted", OV_INT8, SORTED, "int8, the same texts at once")
    for one in results.get("speed", {}).values():
        if "bulk" in one["loads"]:
            yield from _against(one, "bulk", OV_INT8, 1.0, "int8, bulk")


def single(results: Results) -> Iterator[Row]:
    """The better of two peers, p50 and p99 each for itself."""
    for one in results.get("speed", {}).values():
        who = {name: c for name, c in one["contestants"].items() if "single" in c["single"]}
        peers = [name for name in who if of(ORT_INT8, name) or of(OV_INT8, name)]
        exact = [f"{ORT_INT8}, exact kernels"] if f"{ORT_INT8}, exact kernels" in who else []
        mine = best(one, "single", ours=True)
        if not peers or not mine:
            continue
        best_ = {p: min(peers, key=lambda name, p=p: who[name]["single"]["single"][p]) for p in ("p50", "p99")}  # type: ignore[misc]
        # Exact kernels are shown beside, and once where they are the better.
        for percentile, peer in dict.fromkeys([*best_.items(), *((p, name) for name in exact for p in best_)]):
            theirs, ours = (who[name]["single"]["single"][percentile] for name in (peer, mine))
            ratio = theirs / ours
            if percentile == "p50":
                ratio = faster(one, peer, mine, "single") or ratio
            found = f"{ratio:.2f}x, by {mine} ({ours:.2f} ms, {theirs:.2f} ms)"
            what = f"{SHAPES[one['shape']]}: int8, one text at a time, {percentile}, against {peer}"
            yield Row(what, "1x", found, ratio >= 1)


def lossless(results: Results) -> Iterator[Row]:
    """In bfloat16, and packed against padded in fp32."""
    for one in results.get("speed", {}).values():
        found = list(_against(one, "arrival", OV_BF16, BF16, "bf16, order of arrival", "bf16"))
        yield from found or [Row(f"{SHAPES[one['shape']]}: bf16, order of arrival", f"{BF16}x", "no bf16 here", None)]
    for one in results.get("speed", {}).values():
        apart = {n: w["packed"] for n, w in one["contestants"].items() if w["precision"] == "fp32" and w["packed"]}
        if apart:
            worst = max(apart, key=apart.__getitem__)
            what = f"{SHAPES[one['shape']]}: packed fp32 equals padded fp32, logits"
            yield Row(what, f"{EXACT:g}", f"{apart[worst]:.1e}, by {worst}", apart[worst] <= EXACT)


def ends(results: Results) -> Iterator[Row]:
    """From text: the goal is for skewed lengths; film reviews, whose lengths differ less, are shown beside them."""
    for shape, name in SHAPES.items():
        sides = [results.get(part, {}).get(shape) for part in ("skewed-ends", "ends")]
        skewed, reviews = (_from_text(one) if one else None for one in sides)
        if not (known := skewed or reviews):
            continue
        what = f"{name}: from text, {{}}, against {EAGER}"
        told = f"{skewed[0]:.1f}x, by {skewed[2]}" if skewed else "not measured here"
        yield Row(what.format("skewed lengths"), f"{ENDS:g}x", told, skewed[0] >= ENDS if skewed else None)
        if reviews:
            yield Row(what.format("film reviews"), "-", f"{reviews[0]:.1f}x, by {reviews[2]}", None)
        told, most = f"{100 * known[1]:.0f} %", f"{100 * TOKENIZER:.0f} %"
        yield Row(f"{name}: the tokenizer's share of it", most, told, known[1] <= TOKENIZER)


def _from_text(one: Figures) -> tuple[float, float, str]:
    """How many times as fast as eager the fastest of ours is, the tokenizer's share of its time, and its name."""
    fastest = min(
        (name for name in one["sides"] if name.startswith("gossamer")),
        key=lambda name: median(one["sides"][name]["seconds"]),
    )
    side, slow = one["sides"][fastest], one["sides"][EAGER]
    ratio = median(a / b for a, b in zip(slow["seconds"], side["seconds"], strict=True))
    return ratio, median(side["tokenizer"]) / median(side["seconds"]), fastest


def cold(results: Results) -> Iterator[Row]:
    """The best of ours."""
    for shape, one in results.get("cold", {}).items():
        mine = {name: side for name, side in one["sides"].items() if name.startswith("gossamer")}
        if not mine:
            continue
        name = min(mine, key=lambda name, mine=mine: mine[name]["seconds"])  # type: ignore[misc]
        seconds, peak = mine[name]["seconds"], mine[name]["peak"] / 2**20
        goal, most = COLD[shape]
        told = f"{seconds:.2f} s, {peak:.0f} MiB, by {name}"
        if ORT_INT8 in one["sides"]:
            told += f" ({ORT_INT8}: {one['sides'][ORT_INT8]['seconds']:.2f} s)"
        held = seconds <= goal and peak <= most
        yield Row(f"{SHAPES[shape]}: cold start to the first answer", f"{goal:.2f} s, {most} MiB", told, held)


def less_work(results: Results) -> Iterator[Row]:
    """Of the ideal, by the better engine; and all of it against the peers."""
    for shape, one in results.get("ways", {}).items():
        laps = {name: found["arrival"] for name, found in one["seconds"].items()}
        for kind, share_ in IDEAL.items():
            shares = {}
            for name in laps:
                if name.endswith(f" int8, {kind}"):
                    whole = laps[name.removesuffix(kind) + "whole"]
                    shares[name] = median(a / b for a, b in zip(whole, laps[name], strict=True)) / one["ideal"][kind]
            if shares:
                name = max(shares, key=shares.__getitem__)
                found = f"{100 * shares[name]:.0f} %, by {name}"
                what = f"{SHAPES[shape]}: {kind}, of the ideal ratio"
                yield Row(what, f"{100 * share_:.0f} %", found, shares[name] >= share_)
        for rival, goal in ALL.get(shape, ()):
            peer = kin(one["seconds"], rival, "arrival")
            ratios = {
                name: median(a / b for a, b in zip(laps[peer], mine, strict=True))
                for name, mine in laps.items()
                if name.endswith(" int8, all") and peer in laps
            }
            if ratios:
                name = max(ratios, key=ratios.__getitem__)
                what = f"{SHAPES[shape]}: half the structure, exits and tokens, against {peer}"
                yield Row(what, f"{goal:g}x", f"{ratios[name]:.1f}x, by {name}", ratios[name] >= goal)


def labels(results: Results) -> Iterator[Row]:
    """Int8 beside fp32 on a real task."""
    one = results.get("labels", {}).get("minilm")
    if not one:
        return
    sides = {name: side for name, side in one["sides"].items() if "failed" not in side and "gossamer" in name}
    exact = sides["gossamer onnxruntime fp32"]["accuracy"]
    for name, side in sides.items():
        if " int8" in name and "evened" not in name:
            lost = 100 * (exact - side["accuracy"])
            found = f"{100 * side['same']:.2f} %, {max(0.0, lost):.2f} points"
            held = side["same"] >= SAME and lost <= LOST
            yield Row(f"{name}: labels as in fp32, accuracy lost", f"{100 * SAME:.0f} %, {LOST} points", found, held)


GOALS: tuple[Callable[[Results], Iterator[Row]], ...] = (
    arrival, at_once, single, lossless, less_work, labels, ends, cold,
)  # fmt: skip
