"""For every kind of task a file of data, a tiny random model that serves it, and what its answers look like."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gossamer.data import Data, read
from gossamer.task import Task, encode, max_length, of
from tests import texts, tiny

CLASSES = ("no", "yes")
TAGS = ("O", "B-x", "I-x")


def sentence(draw: random.Random, least: int = 3, most: int = 9) -> list[str]:
    """Words of the tests' vocabulary."""
    return [f"w{draw.randrange(10, 100)}" for _ in range(draw.randrange(least, most))]


def record(kind: str, i: int) -> dict[str, Any]:
    """One example of a kind of task, the same each time; something in its words says the label."""
    draw = random.Random(i)
    words = sentence(draw)
    text = " ".join(words)
    if kind == "text-classification":
        return {"text": f"w{10 + i % 2} {text}", "label": CLASSES[i % 2]}
    if kind == "text-regression":
        return {"text": f"w{10 + i % 3} {text}", "label": 0.25 + i % 3}
    if kind == "token-classification":
        tags = ["B-x" if int(w[1:]) % 3 == 0 else "I-x" if int(w[1:]) % 3 == 1 else "O" for w in words]
        return {"tokens": words, "tags": tags}
    if kind == "question-answering":
        context = " ".join(sentence(draw, 20, 60))
        start = context.index(" ", len(context) // 2) + 1
        answer = context[start:].split()[0]
        spans = {"text": [], "answer_start": []} if i % 5 == 4 else {"text": [answer], "answer_start": [start]}
        return {"question": text, "context": context, "answers": spans}
    if kind == "seq2seq":
        return {"text": text, "target": " ".join(reversed(words))}
    if kind == "sentence-embedding":
        other = " ".join(sentence(draw)) if i % 2 else " ".join(reversed(words))
        return {"text": text, "text_pair": other, "label": 5 * (1 - i % 2)}
    return {"text": text}


@dataclass
class World:
    """Everything about one kind of task."""

    kind: str
    data: Data
    task: Task
    model: Any
    tokenizer: Any
    folder: Path

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The training split, encoded."""
        assert self.data.train is not None
        return encode(self.task, self.tokenizer, self.data.train, max_length(self.tokenizer, self.model.config))


def model(kind: str, task: Task, seed: int = 0, layers: int = 2) -> Any:
    """A tiny random model with the head that the task needs; its answers differ from text to text."""
    families = {
        "causal-lm": ("llama", "causal"), "seq2seq": ("bart", "seq2seq"), "masked-lm": ("bert", "masked"),
        "token-classification": ("bert", "tokens"), "question-answering": ("bert", "spans"),
        "sentence-embedding": ("bert", "base"),
    }  # fmt: skip
    family, head = families.get(kind, ("bert", "classes"))
    torch.manual_seed(seed)
    size = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "vocab_size": 100}
    more = {"forced_eos_token_id": 3, "decoder_start_token_id": 2} if kind == "seq2seq" else {}
    depth = {} if kind == "seq2seq" else {"num_hidden_layers": layers}
    told = {"num_labels": 2} if kind in ("causal-lm", "seq2seq", "masked-lm", "sentence-embedding") else {}
    made = tiny.build(family, head, **(size | more | depth | told | task.configure()))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (p == 1))
    made.tie_weights()
    if kind == "seq2seq":
        made.generation_config.max_new_tokens = 8
    return made.eval()


def world(kind: str, folder: Path, count: int = 60, layers: int = 2) -> World:
    """The data of a kind as a folder of jsonl, and a model saved beside it."""
    place = folder / "data"
    place.mkdir(parents=True)
    for part, of_ in (("train", range(count)), ("test", range(1000, 1000 + count // 3))):
        lines = (json.dumps(record(kind, i)) for i in of_)
        (place / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    data = read(place, task=kind)
    task = of(data)
    tokenizer, made = texts.tokenizer(), model(kind, task, layers=layers)
    made.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return World(kind, data, task, made, tokenizer, folder)
