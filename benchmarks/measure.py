"""The whole report of one artefact, the counter against arithmetic, and how repeatable each figure is.

    python benchmarks/measure.py [--artefact runs/demo/artefact] [--teacher runs/demo/teacher] [--rounds 5]

Writes docs/results/measure.md.  `make demo` makes the artefact.  Takes about ten minutes on two cores.  With --only,
the other parts stand as they were left in runs/measure.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from gossamer.benchmarks import elue
from gossamer.measure import formula, macs, measure
from gossamer.measure.time import Schedule
from gossamer.report import rows, verdicts
from gossamer.report.card import how

FAMILIES = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet")
LENGTHS = (32, 128, 512)
SIDES = ("baseline", "compressed")
QUICK = Schedule(singles=100, pool=128, rounds=5, seconds=60.0)


def table(heads: list[str], lines: list[list[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(
        ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(x) + " |" for x in lines)]
    )


def whole(artefact: Path, teacher: Path) -> str:
    """All that can be measured of the artefact beside its teacher."""
    report = measure(
        artefact, data="rotten-tomatoes", baseline=teacher, more=("robustness", "attack", "energy", "cold", "reasons")
    )
    lines = [[row.name, *row.cells, *row.against] for row in rows(report)]
    found = report["compressed"]["robustness"]["disturbances"]
    effects = [
        [
            d["name"], f"{100 * d['changed']:.0f} %",
            *("-" if d[side]["accuracy"] is None else f"{100 * d[side]['accuracy']:.1f} %" for side in SIDES),
            *(f"{100 * d[side]['flip_rate']:.1f} %" for side in SIDES),
        ]
        for d in found
    ]  # fmt: skip
    parts = [
        [s["by"], s["name"], str(s["examples"]), f"{100 * s['before']:.1f}", f"{100 * s['after']:.1f}",
         f"{100 * s['damage']:+.1f} [{100 * s['low']:+.1f}, {100 * s['high']:+.1f}]"]
        for s in report["compressed"]["slices"]
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"Recipe `{report['recipe']}`, {report['data']['examples']} test texts. {' '.join(verdicts(report))}",
            table(["", "teacher", "artefact", "ratio"], lines),
            "Under disturbed texts (accuracy; share of answers that flip):",
            table(
                ["disturbance", "texts changed", "teacher", "artefact", "flips, teacher", "flips, artefact"], effects
            ),
            "Whom compression hurt (accuracy before, after, damage in points with its 95 % interval):",
            table(["by", "which", "examples", "before", "after", "damage"], parts),
            "How each figure was measured:",
            "\n".join(f"- {line}" for line in how(report)),
        ]
    )


def counters() -> str:
    """The dispatcher's count of six families in their default sizes, against the closed form."""
    lines = []
    for family in FAMILIES:
        config = AutoConfig.for_model(family, num_labels=2)
        model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
        for tokens in LENGTHS:
            ids = torch.full((1, min(tokens, 510)), 7)
            with torch.no_grad():
                counted = macs.count(lambda m=model, x=ids: m(input_ids=x, attention_mask=torch.ones_like(x)))  # type: ignore[misc]
            expected = formula.encoder(model, ids.shape[1])
            lines.append([family, str(ids.shape[1]), f"{counted / 1e9:.4f}", f"{2 * counted / 1e9:.4f}",
                          f"{expected / 1e9:.4f}", f"{100 * (counted / expected - 1):+.3f} %"])  # fmt: skip
    told = 12 * elue.layer_flops(elue.Encoder(), 128) / 1e6
    return "\n\n".join(
        [
            table(["family", "tokens", "counted, GMACs", "GFLOPs", "closed form, GMACs", "difference"], lines),
            f"ELUE's convention for the twelve layers of BERT-base at 128 tokens: {told:,.0f} MFLOPs (known: 22,366).",
        ]
    )


def repeated(artefact: Path, teacher: Path, rounds: int) -> str:
    """The same measurement again and again: the spread of each figure over its median."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        report = measure(artefact, data="rotten-tomatoes", baseline=teacher, only=("speed",), schedule=QUICK, threads=1)
        base, one = report["baseline"], report["compressed"]
        figures: dict[str, Any] = {
            "teacher p50, ms": base["latency_ms"]["p50"], "artefact p50, ms": one["latency_ms"]["p50"],
            "teacher p99, ms": base["latency_ms"]["p99"], "artefact p99, ms": one["latency_ms"]["p99"],
            "teacher texts/s": base["throughput_per_s"], "artefact texts/s": one["throughput_per_s"],
            "ratio at batch 1, wall": one["faster"]["latency"], "ratio at batch 1, CPU": one["faster"]["latency_cpu"],
            "ratio at batch 32, wall": one["faster"]["throughput"],
            "ratio at batch 32, CPU": one["faster"]["throughput_cpu"],
        }  # fmt: skip
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    lines = [
        [name, f"{statistics.median(v):.3g}", f"{min(v):.3g}", f"{max(v):.3g}",
         f"{100 * (max(v) - min(v)) / statistics.median(v):.1f} %"]
        for name, v in found.items()
    ]  # fmt: skip
    return table(["figure", "median", "least", "most", "spread over median"], lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefact", type=Path, default=Path("runs/demo/artefact"))
    parser.add_argument("--teacher", type=Path, default=Path("runs/demo/teacher"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="whole,counters,repeated", metavar="PART,...")
    options = parser.parse_args()
    made: dict[str, Callable[[], str]] = {
        "whole": lambda: whole(options.artefact, options.teacher),
        "counters": counters,
        "repeated": lambda: repeated(options.artefact, options.teacher, options.rounds),
    }
    kept = Path("runs/measure")
    kept.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        (kept / f"{name}.md").write_text(made[name](), encoding="utf-8")
    parts = {name: (kept / f"{name}.md").read_text(encoding="utf-8") for name in made}
    text = f"""# What is measured, and how far to trust it

Written by `python benchmarks/measure.py`, with the artefact and the teacher of `make demo`.

## One artefact, all figures

{parts["whole"]}

## The counter against arithmetic

Multiply-accumulates counted under torch's dispatcher, against the closed form read off the modules (one MAC is two
FLOPs); random weights, default sizes.

{parts["counters"]}

## The same measurement {options.rounds} times

On one thread, with half of the usual calls; the machine is shared, and other work comes and goes on it. Absolute
figures say little; ratios of work that takes turns say more, and of CPU time on one thread the most. The last column is
the whole range, from least to most.

{parts["repeated"]}
"""
    place = Path("docs/results/measure.md")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
