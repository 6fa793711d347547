"""The model as most people run it today: the yardstick of every report.

transformers, eager attention, fp32, each batch padded to its longest text, batches in the order in which texts came.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.task import Classification, Task, max_length, named, of_model
from gossamer.task.reading import answers, reads

from .sample import chosen

if TYPE_CHECKING:
    from torch import nn

NO_LIMIT = 1_000_000  # tokens: where neither model nor tokenizer knows one, a number that tokenizers can hold


class Eager:
    """A predictor that calls a transformers model the plain way.

    model: one with a head for its task; tokenizer: its own; max_length: tokens after which a text is cut.
    """

    def __init__(self, model: "nn.Module", tokenizer: Any, max_length: int, name: str = "transformers") -> None:
        self.model: Any = model.eval()
        self.tokenizer, self.max_length, self.name = tokenizer, max_length, name
        config: Any = model.config
        self.task: Task = of_model(config.to_dict() | {"architectures": [type(model).__name__]})
        self.labels: tuple[str, ...] | None = getattr(self.task, "labels", None)
        if tokenizer.pad_token is None:  # gpt2 and its like were never meant to be batched
            tokenizer.pad_token = tokenizer.eos_token
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32) -> Any:
        """(n, classes) in the order of the texts; for other tasks what their answers are."""
        import torch

        if not self.task.per_text:
            return self._answers(texts, pairs, batch_size)
        answers = []
        for start in range(0, len(texts), batch_size):
            some, others = chosen(texts, pairs, range(start, min(start + batch_size, len(texts))))
            batch = self.tokenizer(
                some, others, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            with torch.inference_mode():
                answers.append(self.model(**batch.to(self.model.device)).logits.float().cpu().numpy())
        return np.concatenate(answers) if answers else np.zeros((0, self.model.config.num_labels), np.float32)

    def _answers(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int) -> Any:
        """The answers of a task that needs to know where tokens stand; still in the order of the texts."""
        import torch

        from gossamer.engines.predictor import at_once, pad
        from gossamer.engines.texts import Facts
        from gossamer.engines.torch import outputs

        known = Facts(self.task, self.max_length, int(self.tokenizer.pad_token_id or 0), self._typed)
        found = list(reads(self.task, self.tokenizer, texts, pairs, self.max_length))
        parts, said = [part for one in found for part in (one, *one.more)], list[Any]()
        vocabulary = int(self.model.config.vocab_size) if self.task.wide else 0
        while len(said) < len(parts):
            some = parts[len(said) : len(said) + batch_size]
            some = some[: at_once(batch_size, vocabulary, max(len(one.ids) for one in some))]
            with torch.inference_mode():
                out = outputs(self.model, self.task, pad(some, known))
            said += [self.task.cut(out, row, one) for row, one in enumerate(some)]
        return self.task.stack(answers(self.task, found, said, texts, pairs, self._decode))

    @property
    def _typed(self) -> bool:
        return "token_type_ids" in self.tokenizer.model_input_names

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """The best label of each text and its probability, for regression the value, and so on."""
        return [self.task.told(answer) for answer in self.logits(texts, pairs, batch_size)]


def eager(folder: str | Path, kind: str | None = Classification.kind) -> Eager:
    """A plain transformers folder or hub id, in fp32 with eager attention.

    kind: the task to load it for; None: the one that its architecture says.
    Raises ValueError when the head is not in it: its answers would be random.
    """
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    its = of_model(config)
    posed = its if kind is None else named(kind)
    auto = getattr(transformers, posed.auto)
    model, notes = auto.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    if notes["missing_keys"]:
        raise ValueError(
            f"{folder} has no trained {', '.join(sorted(notes['missing_keys']))}; expected a fine-tuned model: "
            "fine-tune it first (gossamer compress does so and says so)"
        )
    if config.architectures and its.auto != posed.auto:
        raise ValueError(
            f"{folder} is a {config.architectures[0]}, made for {its.kind}; expected a model for {posed.kind}"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = max_length(tokenizer, model.config, cap=NO_LIMIT)
    return Eager(model, tokenizer, longest, "transformers eager fp32")
