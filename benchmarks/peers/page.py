"""docs/results/engines.md, from the figures.

results: by part ("speed", "cold", "ends", ...), then by shape, what that part's `measure` gave.  A section is a
function from results to text, "" where nothing was measured; SECTIONS is their order on the page.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from textwrap import fill
from typing import Any

from . import goals
from .cold import FLOOR
from .contestants import EAGER, INT8, ORT_INT8, OV_INT8
from .goals import best, faster, per_second, share
from .limit import ROWS
from .shapes import SHAPES, SKEWED

Results = Mapping[str, Mapping[str, Any]]
HEADS = ["texts/s", "real tokens/s", "x eager", "x ONNX Runtime int8", "x best int8 peer", "share of the limit"]
WAYS = {"alone": "one at a time", "arrival": "arrival", "sorted": "at once"}
FEWEST = 3  # rounds that say anything
QUIET = 0.1  # cores that others may take
TOLD = ["logits differ, max (mean)", "labels the same"]


def render(results: Results) -> str:
    """The page."""
    return "\n\n".join(part for part in (section(results) for section in SECTIONS) if part) + "\n"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    rows = (heads, ["---"] * len(heads), *lines)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def opening(results: Results) -> str:
    """What was run, on what, and how far to trust it."""
    one = max(results.get("speed", {}).values(), key=lambda one: one["texts"]["skewed"]["texts"], default=None)
    if one is None:
        return "# Engines\n\nWritten by `python benchmarks/engines.py`. Speed has not been measured yet."
    machine, texts = one["hardware"], one["texts"]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    skewed, bulk = (
        f"{t['texts']:,} texts, {t['mean']} tokens on average, median {t['median']:.0f}, 99th percentile {t['p99']}, "
        f"longest {t['max']}"
        for t in (texts["skewed"], texts["bulk"])
    )
    points = [
        "**Models.** BERT-base: twelve layers of 768, random weights. MiniLM: all-MiniLM-L6-v2, six layers of 384. "
        "Both have a random head of two classes. Everybody has the same weights; int8 is made by each one's own tool "
        "with the settings that come with it, gossamer's by `Int8()`, which needs no texts. OpenVINO's (NNCF) has "
        "seen the skewed texts.",
        "**Rest bf16**: what an int8 model leaves to floats is computed in bfloat16, as OpenVINO has it unless told "
        'otherwise (ours: `precision="bf16"`). Goals against OpenVINO are against the faster of the two.',
        f"**Texts.** Token ids. Skewed (lognormal): {skewed}. Bulk: {bulk}. Fixed: 128 tokens.",
        "**Time** runs from token ids to logits: padding, sorting and packing are in it. In the order of arrival, 32 "
        "texts are given at a time. At once means that all are given, and everybody, peers too, sorts them by length.",
        "**Rounds.** In each round everybody is asked the same, in turns of two batches or 24 single texts, in an "
        "order that changes. A round to warm up does not count (in it every length of single texts and every batch of "
        "32 is asked, so nobody prepares for these later), nor does the first call of each turn. Times are medians "
        "over rounds; a ratio is the median of ratios within rounds. Compare ratios, not figures of different runs.",
        f"**The limit** is how fast the fastest library at hand multiplies matrices of the model's shapes ({ROWS} "
        "tokens), timed in the same rounds. The share of it counts all linear layers on the real tokens, whether they "
        "were computed or not: gossamer's graphs leave out what the head does not read of the last layer.",
        "**Two yardsticks.** transformers eager in fp32 is what most people run. It is a weak one: it pads, and "
        f"torch's fp32 products reach {_torch_share(one)} of the fastest library's here. The best int8 peer is the "
        f"honest one. {_weaker(results)}".rstrip(),
    ]
    if not set(INT8) & set(machine["instructions"]):
        points.append(
            "**No VNNI here.** On such a processor the quick int8 kernels of x86 add two products in sixteen bits and "
            "can overflow. gossamer rounds weights so that they cannot; ONNX Runtime is shown with either kind."
        )
    told = (
        f"Machine: {machine['cpu']} with {', '.join(machine['instructions']) or 'no special instructions'}; "
        f"{machine['cores']} cores, {one['threads']} threads for everybody, {machine['memory_gib']} GiB. {versions}."
    )
    return "\n\n".join(
        [
            "# Engines: gossamer beside everybody else",
            "Written by `python benchmarks/engines.py`; the figures are in [engines.json](engines.json).",
            fill(told, 120),
            "\n".join(fill(f"- {point}", 120, subsequent_indent="  ") for point in points),
        ]
    )


def _torch_share(one: Mapping[str, Any]) -> str:
    rates = {name: median(found) for name, found in one["gemms"].get("fp32", {}).items()}
    if "torch matmul" not in rates:
        return "only a part"
    return f"{100 * rates['torch matmul'] / max(rates.values()):.0f} %"


def _weaker(results: Results) -> str:
    one = results.get("speed", {}).get("bert-base")
    peer = goals.kin(goals.seconds(one), goals.OV_INT8, "arrival") if one else ""
    times = goals.faster(one, goals.EAGER, peer, "arrival") if one else None
    if times is None:
        return ""
    return (
        "Goals against eager were set on a processor where that reached 41 % of the limit and OpenVINO int8 was 7.7 "
        f"times as fast as it (BERT-base, order of arrival); here {peer} is {times:.1f} times as fast."
    )


def goal_table(results: Results) -> str:
    """What was aimed at and what came out."""
    rows = goals.rows(results)
    if not rows:
        return ""
    lines = [[row.what, row.goal, row.found, {True: "held", False: "missed", None: "-"}[row.held]] for row in rows]
    return "## Goals\n\n" + table(["what", "goal", "found", ""], lines)


def speeds(results: Results) -> str:
    """All loads of each shape."""
    return "\n\n".join(_shape(one) for one in results.get("speed", {}).values())


def _shape(one: Mapping[str, Any]) -> str:
    parts = [f"## {SHAPES[one['shape']]}"]
    if len(one["rounds"]) < FEWEST or one["texts"]["skewed"]["texts"] < SKEWED:
        told = f"{len(one['rounds'])} rounds of {one['texts']['skewed']['texts']} skewed texts"
        told += "" if "bulk" in one["loads"] else " and no bulk"
        parts.append(f"**A short run**: {told}. It says less than the other figures.")
    parts.append(_single(one))
    parts += [_batches(one, name) for name in one["loads"] if not name.startswith("single")]
    parts += [_accuracy(one), _limit(one), _rounds(one)]
    if one["absent"]:
        parts.append("Left out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in one["absent"].items()))
    return "\n\n".join(parts)


def _single(one: Mapping[str, Any]) -> str:
    """One text at a time."""
    lines = []
    against = best(one, "single")
    for name, who in one["contestants"].items():
        if "single" not in who["seconds"]:
            continue
        skewed, fixed = who["single"]["single"], who["single"].get("single-128")
        lines.append(
            [_bold(name), f"{skewed['p50']:.2f}", f"{skewed['p99']:.2f}", f"{fixed['p50']:.2f}" if fixed else "-"]
            + [_times(faster(one, other, name, "single")) for other in (EAGER, ORT_INT8, against)]
            + _told(who)
        )
    heads = ["", "p50, ms", "p99, ms", "p50 of 128 tokens, ms", *HEADS[2:5], *TOLD]
    return f"### One text at a time, skewed\n\nBest int8 peer: {against or 'none'}.\n\n{table(heads, lines)}"


def _batches(one: Mapping[str, Any], load: str) -> str:
    """One of the other loads."""
    against, about = best(one, load), one["loads"][load]
    lines = []
    for name, who in one["contestants"].items():
        if load not in who["seconds"]:
            continue
        rate = per_second(one, name, load)
        lines.append(
            [_bold(name), f"{rate:,.1f}", f"{rate * about['tokens'] / about['texts']:,.0f}"]
            + [_times(faster(one, other, name, load)) for other in (EAGER, ORT_INT8, against)]
            + [_percent(share(one, name, load)), *_told(who)]
        )
    title = about["what"][0].upper() + about["what"][1:]
    told = f"{about['texts']:,} texts, {about['tokens']:,} tokens. Best int8 peer: {against or 'none'}."
    return f"### {title}\n\n{told}\n\n{table(['', *HEADS, *TOLD], lines)}"


def _bold(name: str) -> str:
    """Ours stand out."""
    return f"**{name}**" if name.startswith("gossamer") else name


def _told(who: Mapping[str, Any]) -> list[str]:
    return [f"{who['max']:.1e} ({who['mean']:.1e})", f"{100 * who['same']:.1f} %"]


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _accuracy(one: Mapping[str, Any]) -> str:
    lines = [
        [
            *(_bold(name), *_told(who), f"{who['likeness']:.5f}"),
            "-" if who["packed"] is None else f"{who['packed']:.1e}",
        ]
        for name, who in one["contestants"].items()
    ]
    heads = ["", *TOLD, "correlation of margins", "packed from alone, max"]
    about = (
        f"Against {EAGER} on the {one['texts']['skewed']['texts']} skewed texts in batches of 32. The head is random "
        "and nothing was trained on it: many texts lie next to its threshold, so labels change more easily than those "
        'of a trained model. The margin is the difference of the two logits. "Packed from alone": the same engine, '
        "texts laid end to end and each text by itself."
    )
    return f"### How far from fp32\n\n{fill(about, 120)}\n\n{table(heads, lines)}"


def _limit(one: Mapping[str, Any]) -> str:
    lines = [
        [precision, name, f"{median(found) / 1e9:.0f}", f"{min(found) / 1e9:.0f} to {max(found) / 1e9:.0f}"]
        for precision, some in one["gemms"].items()
        for name, found in some.items()
    ]
    shapes = ", ".join(f"{a} x {b}" for a, b in dict.fromkeys(map(tuple, one["macs"]["layer"])))
    heads = ["precision", "library", "GMAC/s, median", "over the rounds"]
    about = (
        f"{ROWS} rows by {shapes}, as often as in one layer; the best of a few in each round. The model has "
        f"{one['macs']['token'] / 1e6:.2f} million multiply-accumulates a token in linear layers and "
        f"{one['macs']['text'] / 1e6:.2f} million more a text."
    )
    return f"### The machine's limit\n\n{fill(about, 120)}\n\n{table(heads, lines)}"


def _rounds(one: Mapping[str, Any]) -> str:
    """How quiet it was, and what "auto" makes of it."""
    spans = {name: [note.get(name, 0.0) for note in one["rounds"]] for name in ("foreign", "stolen", "load", "seconds")}
    told = (
        "Rounds: {}, of {:.0f} s. Meanwhile others used {} cores, the host of this machine took {}; the load average, "
    )
    told += "these threads included, was {}."
    ends = [f"{min(spans[name]):.2f} to {max(spans[name]):.2f}" for name in ("foreign", "stolen", "load")]
    told = told.format(len(one["rounds"]), median(spans["seconds"]), *ends)
    if median(spans["foreign"]) + median(spans["stolen"]) > QUIET:
        told += " **That is not quiet: these figures are no evidence.**"
    auto = ", ".join(f"{name} in {precision}" for precision, name in one.get("auto", {}).items())
    chosen = f'\n\nOf its own engines, `engine="auto"` chooses {auto}.' if auto else ""
    return fill(told, 120) + chosen


ENGLISH = {"skewed-ends": "English cut to skewed lengths", "ends": "Film reviews (Rotten Tomatoes) as they are"}


def from_text(results: Results) -> str:
    """Tokenizer and model."""
    about = (
        "transformers takes the texts in the order of arrival, 32 at a time; the other peers read all texts at once "
        "with tokenizers, sort them and run batches of 32; gossamer is called once with the list."
    )
    parts = []
    for shape, name in SHAPES.items():
        if some := [_english(part, found) for part in ENGLISH if (found := results.get(part, {}).get(shape))]:
            parts += [f"## From text to answer, {name}\n\n{fill(about, 120)}", *some]
    return "\n\n".join(parts)


def _english(part: str, one: Mapping[str, Any]) -> str:
    """Of one part."""
    lines, count = [], one["texts"]["texts"]
    for name, side in one["sides"].items():
        whole, alone = median(side["seconds"]), median(side["tokenizer"])
        ratio = median(a / b for a, b in zip(one["sides"][EAGER]["seconds"], side["seconds"], strict=True))
        cells = [f"{count / whole:,.0f}", f"{ratio:.2f}", f"{1e6 * alone / count:.0f}", _percent(alone / whole)]
        lines.append([_bold(name), *cells, f"{100 * side['same']:.1f} %"])
    heads = ["", "texts/s", "x eager", "tokenizer alone, us a text", "of the whole", "labels the same"]
    told = f"{count} texts, {one['texts']['mean']} tokens on average, {one['texts']['max']} at most"
    return f"### {ENGLISH[part]}\n\n{told}.\n\n{table(heads, lines)}"


def cold_starts(results: Results) -> str:
    """Seconds and memory of fresh processes."""
    found = {shape: one for shape, one in results.get("cold", {}).items() if one["sides"]}
    if not found:
        return ""
    names = list(dict.fromkeys(name for one in found.values() for name in (*one["sides"], *one["failed"])))
    lines = []
    for name in names:
        cells = [_bold(name)]
        for one in found.values():
            side = one["sides"].get(name)
            cells += ["-", "-"] if side is None else [f"{side['seconds']:.2f}", f"{side['peak'] / 2**20:.0f}"]
        lines.append(cells)
    heads = ["", *(f"{SHAPES[shape]}, {what}" for shape in found for what in ("s", "MiB"))]
    failed = {name: why for one in found.values() for name, why in one["failed"].items()}
    left = "\n\nFailed:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failed.items()) if failed else ""
    about = (
        "From the start of a process to its first answer (interpreter, imports, weights, tokenizer, one text), and the "
        "most memory it held until then; the files are in memory already. Medians of "
        f'{next(iter(found.values()))["runs"]}, taking turns. "{FLOOR}" is what nobody who calls from Python can go '
        "below."
    )
    return f"## Cold start and memory\n\n{fill(about, 120)}\n\n{table(heads, lines)}{left}"


def less_work(results: Results) -> str:
    """Exits, skipped tokens, half the structure."""
    parts = []
    for shape, one in results.get("ways", {}).items():
        names = [name for name in one["seconds"] if name.startswith("gossamer")]
        lines = []
        for name in names:
            engine, _, kind = name.removeprefix("gossamer ").partition(" int8, ")
            whole, laps = one["seconds"][f"gossamer {engine} int8, whole"], one["seconds"][name]
            ideal = one["ideal"][kind]
            cells = [_bold(f"gossamer {engine} int8"), kind, f"{ideal:.2f}"]
            for load in WAYS:
                if load not in whole:
                    cells += ["-", "-"]
                    continue
                ratio = median(a / b for a, b in zip(whole[load], laps[load], strict=True))
                cells += [f"{ratio:.2f}", _percent(ratio / ideal)]
            for other in (EAGER, ORT_INT8, OV_INT8):
                found = one["seconds"].get(goals.kin(one["seconds"], other, "arrival"), {}).get("arrival", [])
                cells.append(
                    _times(median(a / b for a, b in zip(found, laps["arrival"], strict=True)) if found else None)
                )
            lines.append(cells)
        heads = ["", "work", "ideal", *(head for load in WAYS.values() for head in (load, "of the ideal"))]
        heads += [f"arrival, x {other}" for other in (EAGER, ORT_INT8, OV_INT8)]
        about = (
            f"The {one['texts']['texts']} skewed texts; how many times as fast as the same engine with the whole "
            "model. Exits: half the depth on average. Tokens: every other one goes in the middle of the third layer. "
            "Half: half of all heads and neurons. All: the three together. Ideal: by multiply-accumulates of linear "
            "layers, what the head does not read of the last layer left out. Ours are "
            f"`{one.get('rounding', 'Int8()')}`. Who leaves is made up, so this is about engines, not about accuracy."
        )
        if "turns" not in one:
            about += " Older figures: a turn was all 192 texts, and of single texts only the first length was warm."
        parts.append(f"## Less work a text, {SHAPES[shape]}\n\n{fill(about, 120)}\n\n{table(heads, lines)}")
    return "\n\n".join(parts)


def rounding(results: Results) -> str:
    """What int8 changes on a real task."""
    one = results.get("labels", {}).get("minilm")
    if not one:
        return ""
    lines = []
    for name, side in one["sides"].items():
        if "failed" in side:
            lines.append([_bold(name), side["failed"], "-", "-"])
            continue
        told = [f"{100 * side['accuracy']:.2f} %", f"{100 * side['same']:.2f} %", f"{side['mean']:.4f}"]
        lines.append([_bold(name), *told])
    about = (
        f"MiniLM fine-tuned on Rotten Tomatoes (`--tuned`; `make demo` leaves one), its {one['texts']:,} test texts. "
        "Static bounds, NNCF's and gossamer's, were found on 256 training texts."
    )
    heads = ["", "accuracy", "labels as in fp32", "logits differ, mean"]
    return f"## What rounding changes\n\n{fill(about, 120)}\n\n{table(heads, lines)}"


SECTIONS: tuple[Callable[[Results], str], ...] = (
    opening,
    goal_table,
    speeds,
    less_work,
    rounding,
    from_text,
    cold_starts,
)
