"""Written texts for the small model: a tokenizer of a hundred words, a file of labelled data, a model's folder."""

import csv
import random
from pathlib import Path
from typing import Any

from tests import small

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), 100))]


def tokenizer() -> Any:
    """Words by their numbers, between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **special)


def rows(count: int = 120, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label): the first word of three says the label."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        label = small.LABELS[i % 2]
        words = [f"w{10 + i % 2}", *(f"w{draw.randrange(20, 100)}" for _ in range(draw.randrange(2, 12)))]
        made.append((" ".join(words), label))
    return made


def file(place: Path, count: int = 120) -> Path:
    """A csv with the columns text and label."""
    with place.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows(count)])
    return place


def folder(place: Path, model: Any = None) -> Path:
    """A model as transformers saves it, with its tokenizer."""
    (small.model() if model is None else model).save_pretrained(place)
    tokenizer().save_pretrained(place)
    return place
