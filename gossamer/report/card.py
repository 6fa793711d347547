"""The model card of an artefact: README.md with the measured table, how it was measured and how to load it."""

import json
import re
from collections.abc import Callable
from math import e
from pathlib import Path
from typing import Any

from gossamer.engines.graphs import fits
from gossamer.finite import healthy
from gossamer.task import named

from . import Report, digits, names, percent, rows, share, verdict

# What the hub calls each kind of task; transformers has a pipeline by that name for those in PIPED.
PIPELINES = {
    "token-classification": "token-classification", "question-answering": "question-answering",
    "masked-lm": "fill-mask", "causal-lm": "text-generation", "seq2seq": "translation",
    "sentence-embedding": "sentence-similarity",
}  # fmt: skip
PIPED = ("text-classification", "token-classification", "fill-mask", "text-generation")
ANSWERS = {
    "text-regression": ('{"value": ...}', '["a text"]'),
    "token-classification": ('{"tags": [...]}', '["some words"]'),
    "question-answering": ('{"answer": ..., "start": ..., "score": ...}', '["a question?"], ["its context"]'),
    "masked-lm": ('{"words": [...]}', '["a text with a [MASK]"]'),
    "causal-lm": ('{"perplexity": ..., "tokens": ...}', '["a text"]'),
    "seq2seq": ('{"text": ...}', '["a text"]'),
    "sentence-embedding": ('{"embedding": [...]}', '["a text"]'),
}

# Products of bytes with signs and bytes without overflow on x86 processors without VNNI; gossamer sets this by itself.
BARE = (
    "Whoever opens `model.onnx` with ONNX Runtime alone sets `session.x64quantprecision` to `1` in its session options "
    "on x86 processors without VNNI, or the answers of an int8 graph may be wrong."
)


def write(report: Report, folder: str | Path) -> Path:
    """Write README.md into the artefact's folder; its path."""
    file = Path(folder) / "README.md"
    file.write_text(card(report, folder), encoding="utf-8")
    return file


def card(report: Report, folder: str | Path, name: str | None = None) -> str:
    """The text of the model card.

    folder: the artefact, whose config.json and files say how to load it.  name: its title; the folder's by default.
    """
    report = healthy(report)
    place = Path(folder)
    name = name or place.resolve().name
    base = report.get("baseline")
    said = verdict(base, report["compressed"], report) if base else ""
    parts = [
        _front_matter(report, name),
        f"# {escaped(name)}",
        f"A compressed {report['task']} model, made with gossamer.",
        *([f"Against its teacher: {escaped(said)}"] if said else []),
        "## Measured",
        _table(report),
        "\n".join(f"- {line}" for line in how(report, escaped)),
        "## Use",
        _loading(report, place),
        "## Recipe",
        _fenced(report["recipe"] or "(none recorded)"),
        f"Seed {report['seed']}. The whole report, with versions and hardware, is in `report.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def escaped(words: object) -> str:
    """What somebody wrote, such as a file's name, as Markdown that shows it and does nothing else."""
    plain = re.sub(r"([\\`*<>\[\]|~&#]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(words).split()))
    return re.sub(r"(?i)(https?|ftp|www)(?=[:.])", r"\1\\", plain)  # GitHub links bare addresses


def _fenced(words: str) -> str:
    """A block of code that what is in it cannot end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", words)), default=0))
    return f"{fence}\n{words}\n{fence}"


def _front_matter(report: Report, name: str) -> str:
    """YAML for the hub; JSON values are YAML, and quote whatever a name may hold."""
    quality, data = report["compressed"].get("quality"), report["data"]
    fields: dict[str, Any] = {
        "library_name": "gossamer",
        "pipeline_tag": PIPELINES.get(report["task"], "text-classification"),
        "tags": ["gossamer", "model-compression", report["task"], *_methods(report["recipe"])],
    }
    base = (report.get("baseline") or {}).get("model")
    if base and is_hub_id(base):
        fields["base_model"] = base
    if quality:
        fields["metrics"] = [{"pearson": "pearsonr", "spearman": "spearmanr"}.get(quality["metric"], quality["metric"])]
        dataset = {"name": data["name"], "type": _slug(data["name"]), "split": data["split"]}
        score = {"type": fields["metrics"][0], "value": round(quality["value"], 4)}
        result = {"task": {"type": fields["pipeline_tag"]}, "dataset": dataset, "metrics": [score]}
        fields["model-index"] = [{"name": name, "results": [result]}]
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    return "\n".join(("---", *lines, "---"))


def _table(report: Report) -> str:
    base = report.get("baseline")
    heads = ["", *([f"baseline ({base.get('engine') or 'failed'})"] if base else [])]
    heads += [f"this model ({report['compressed'].get('engine') or 'failed'})", *(["ratio"] if base else [])]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in rows({**report, "others": []}):  # a card is about one artefact, whatever else was measured with it
        lines.append([row.name, *row.cells, *(row.against if base else ())])
    return "\n".join("| " + " | ".join(re.sub(r"([\\|<`])", r"\\\1", c) for c in line) + " |" for line in lines)


INTERVALS = {
    "wilson": "Wilson's score interval of a proportion",
    "fisher": "Fisher's z interval of a correlation",
    "bootstrap": "percentile bootstrap over the texts, from a fixed seed",
}  # as gossamer.task names the method of a kind


def how(report: Report, written: Callable[[object], str] = str) -> list[str]:
    """How each figure came about, one line each, **bold** where Markdown has it: a number without that is worth little.

    written: makes what users and machines call things fit for where the lines go.
    """
    data, timing, hardware = report["data"], report["timing"], report["hardware"]
    versions = written(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    faster = report["compressed"].get("faster") or {}
    timed = report["compressed"].get("timed") or {"singles": 0, "passes": 0}
    where = {"latency_cpu": "at batch 1", "throughput_cpu": f"at batch {timing['batch_size']}"}
    cpu = [f"{faster[key]:.2f}x {place}" for key, place in where.items() if faster.get(key)]
    base = report["compressed"].get("loyalty_base") or 2
    task = named(report["task"])
    metric = next(
        (s["quality"]["metric"] for s in (report["compressed"], report.get("baseline")) if s and s.get("quality")),
        task.metric,
    )
    alone = timing["threads"] == 1
    lines = [
        f"**Data**: {written(data['name'])}, the {written(data['split'])} split, {data['examples']} examples "
        f"(fingerprint `{str(data['fingerprint'])[:12]}`).",
        f"**Quality**: {written(metric)} over all of them, with a 95 % "
        f"interval ({INTERVALS[task.interval]}); of the model alone: whether two differ is said by "
        "tests on the same examples.",
        "**Parameters**: weights that are stored, shared ones once; an integer weight is one weight. Without "
        "embeddings: less the tables, their norm and the projection behind a narrow table.",
        "**Bytes to run it**: config, tokenizer and the weights that the engine named above reads. **Bytes of the "
        "folder**: every file in it, for every engine. 1 MB = 1,000,000 bytes.",
        "**MACs** (multiply-accumulates; 1 MAC = 2 FLOPs): counted under torch's dispatcher on the torch form, one "
        f"text at a time at its true length, mean of {timing['macs_examples']}; embeddings, norms and activations "
        "count as zero, heads and selectors on the way do not. In batches: the same texts in their order, as the torch "
        "form batches them (transformers as they come, gossamer by length first), with padding, and with finished rows "
        "until they leave.",
        f"**Speed**: baseline and artefact took turns in one process; tokenization included; {timing['threads']} "
        f"thread(s); medians, after {timing['warmup']} calls to warm up. Latency: one text at a time, "
        f"{timed['singles']} texts. Throughput: {timing['pool']} texts in batches of {timing['batch_size']}, "
        f"{timed['passes']} passes. Ratios are medians over pairs of the same work in the same round. In brackets: 95 "
        "% intervals, percentile bootstrap over rounds (of ratios, over rounds of pairs), none under three; of few "
        "rounds from the least to the most, and a p99's upper end is at most the slowest text seen."
        + (f" On process CPU time the ratios are {' and '.join(cpu)}." if cpu else "")
        + (" CPU time is that of one thread." if alone else " CPU time is that of all threads together."),
        f"**Loyalty**: the share of equal labels, and the mean of 1 - sqrt(JSD) to base {'e' if base == e else base} "
        "(Xu et al., EMNLP 2021), both against the baseline's answers.",
        *_asked(report, written),
        f"**Machine**: {written(hardware.get('cpu', 'unknown'))}, {hardware.get('cores', '?')} cores. {versions}.",
    ]
    return lines


DIFFER = (
    "**Speed-ups**: the baseline over the artefact, three ways, and they differ: the clock measures everything "
    "(tokenizing, memory, threads, kernels) on this one machine; MACs count the products of one text without padding, "
    "exit heads too, and know nothing of memory; layers, as papers on early exit count them, take every layer for "
    "equal and all else for nothing. Only the first is time saved."
)


def _disturbed(found: Any) -> str:
    names = ", ".join(one["name"] for one in found.get("disturbances", ()))
    return (
        f"**Disturbances**: {names}; {found['examples']} texts, seed {found['seed']}, the same for all sides; the mean "
        "is over those that keep the meaning."
    )


TOLD: dict[str, Callable[[Any], str]] = {
    "calibration": lambda found: f"**Calibration**: {len(found['bins'])} bins of equal width (Guo et al., ICML 2017).",
    "churn": lambda found: "**Changed answers**: against the baseline's; p is McNemar's, exact for few flips.",
    "speedups": lambda found: DIFFER,
    "noise": lambda found: (
        f"**Another seed**: the baseline trained again on the same data changes "
        f"{percent(found['reseeded']['churn']['changed'])} of the answers (label loyalty "
        f"{share(found['reseeded']['label_loyalty'])}, probability loyalty "
        f"{share(found['reseeded']['probability_loyalty'])}): the floor under which changed answers say nothing about "
        "compression; p is McNemar's, of who changes more. One other seed, not all of them."
    ),
    "slices": lambda found: (
        "**Slices**: thirds by length in words, by rarity of words (mean -log2 of their frequency in these texts), by "
        "difficulty (1 - the baseline's largest probability), and by label."
    ),
    "robustness": _disturbed,
    "attack": lambda found: (
        f"**Attack**: {found['attack']}, words from {found['source']}, {found['examples']} texts; TextFooler's search "
        "(Jin et al., AAAI 2020) without its embeddings, so not comparable with its numbers."
    ),
    "cold": lambda found: (
        "**Cold start**: from the start of a fresh process to its first answer, and its peak of resident memory; "
        f"medians of {found['runs']}, files already read once."
    ),
    "reasons": lambda found: (
        f"**Attributions**: input times gradient of the baseline's answer, {found['texts']} texts; top {found['top']} "
        f"tokens shared: {100 * found['overlap']:.0f} %."
    ),
}


def _asked(report: Report, written: Callable[[object], str]) -> list[str]:
    """How what is not in every report came about."""
    sides = [one for one in (report["compressed"], *report.get("others", []), report.get("baseline")) if one]
    lines = [
        told(found) for name, told in TOLD.items() if (found := next((s[name] for s in sides if s.get(name)), None))
    ]
    called = zip(names([one["model"] for one in sides]), sides, strict=True)
    return lines + [_drawn(written(name), one["energy"], written) for name, one in called if one.get("energy")]


def _drawn(name: str, found: Any, written: Callable[[object], str]) -> str:
    parts = "; ".join(
        f"{written(part['source'])} {part['tier'] if part['tier'] == 'unavailable' else 'by ' + part['tier']} "
        f"({written(part['note'])})"
        for part in found["parts"]
    )
    carbon = found["co2_per_million"]
    year = f", the average of {carbon['year']}" if carbon.get("year") else ""
    return (
        f"**Energy of {name}**: {found['runs']} passes in {found['seconds']:.0f} s; {parts}; PUE {found['pue']:g}; "
        f"{digits(carbon['grams'])} g CO2 for a million texts at {carbon['grams_per_kwh']:g} g/kWh "
        f"({written(carbon['region'])}{year})."
    )


def _loading(report: Report, folder: Path) -> str:
    """The ways to load this very artefact."""
    config = folder / "config.json"
    ours = config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "gossamer"
    first = "import gossamer  # transformers knows the architecture from here on\n" if ours else ""
    answer, given = ANSWERS.get(report["task"], ('{"label": ..., "score": ...}', '["a text"]'))
    auto = named(report["task"]).auto
    engine = "ONNX Runtime, without torch" if any(folder.glob("*.onnx")) else "PyTorch"
    call = "classify" if report["task"] in ("text-classification", "text-regression") else "answer"
    load = f'{call} = gossamer.load("path/to/this/folder")'
    tag = PIPELINES.get(report["task"], "text-classification")
    piped = f'{call} = pipeline("{tag}", "path/to/this/folder")\n' if tag in PIPED else ""
    blocks = [
        f"The fastest way runs on {engine}:",
        f"```python\nimport gossamer\n\n{load}\n{call}({given})  # [{answer}]\n```",
        *([] if all(map(fits, folder.glob("*.onnx"))) else [BARE]),
        "As a model of transformers:",
        f"```python\n{first}from transformers import {auto}{', pipeline' if piped else ''}\n\n"
        f'model = {auto}.from_pretrained("path/to/this/folder")\n{piped}```',
    ]
    if ours:
        blocks.append(
            "Without gossamer, `from_pretrained(..., trust_remote_code=True)` runs the copy of its runtime that lies "
            "in this folder."
        )
    return "\n\n".join(blocks)


def is_hub_id(name: str) -> bool:
    """Whether this can be the name of a model on the hub: owner/name, and not a folder here."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)) and not Path(name).exists()


def _methods(recipe: str | None) -> list[str]:
    """The methods that a recipe names, as tags."""
    names = re.findall(r"\b([A-Z]\w*)\(", recipe or "")
    return list(dict.fromkeys(name.lower() for name in names))


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(name).stem or name).strip("-").lower() or "data"
