"""The model as most people run it today: the yardstick of every report.

transformers, eager attention, fp32, each batch padded to its longest text, batches in the order in which texts came.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .sample import chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

NO_LIMIT = 1_000_000  # tokens: where neither model nor tokenizer knows one, a number that tokenizers can hold


class Eager:
    """A predictor that calls a transformers model the plain way.

    model: any sequence-classification model; tokenizer: its own; max_length: tokens after which a text is cut.
    """

    def __init__(self, model: "nn.Module", tokenizer: Any, max_length: int, name: str = "transformers") -> None:
        self.model: Any = model.eval()
        self.tokenizer, self.max_length, self.name = tokenizer, max_length, name
        config: Any = model.config
        self.labels: tuple[str, ...] | None = None
        if config.num_labels > 1:
            self.labels = tuple(config.id2label[i] for i in range(config.num_labels))
        if tokenizer.pad_token is None:  # gpt2 and its like were never meant to be batched
            tokenizer.pad_token = tokenizer.eos_token
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> "NDArray[np.float32]":
        """(n, classes) in the order of the texts."""
        import torch

        answers = []
        for start in range(0, len(texts), batch_size):
            some, others = chosen(texts, pairs, range(start, min(start + batch_size, len(texts))))
            batch = self.tokenizer(
                some, others, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            with torch.inference_mode():
                answers.append(self.model(**batch.to(self.model.device)).logits.float().cpu().numpy())
        return np.concatenate(answers) if answers else np.zeros((0, self.model.config.num_labels), np.float32)

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """The best label of each text and its probability, or for regression the value."""
        from .loyalty import softmax

        logits = self.logits(texts, pairs, batch_size)
        if self.labels is None:
            return [{"value": float(row[0])} for row in logits]
        return [{"label": self.labels[int(p.argmax())], "score": float(p.max())} for p in softmax(logits)]


def eager(folder: str | Path) -> Eager:
    """A plain transformers folder or hub id, in fp32 with eager attention.

    Raises ValueError when the classification head is not in it: its answers would be random.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from gossamer.task import max_length

    model, notes = AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    if notes["missing_keys"]:
        raise ValueError(
            f"{folder} has no trained {', '.join(sorted(notes['missing_keys']))}; expected a fine-tuned classifier: "
            "fine-tune it first (gossamer compress does so and says so)"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = max_length(tokenizer, model.config, cap=NO_LIMIT)
    return Eager(model, tokenizer, longest, "transformers eager fp32")
