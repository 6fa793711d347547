"""What is asked of a model: one class per text (or pair of texts), or one number.

A task configures the model's head, turns texts into token ids and those into padded batches, and scores the answers.
torch is imported only where a batch is made.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gossamer.data import Data, Split

if TYPE_CHECKING:
    from torch import Tensor

Example = dict[str, Any]  # index, input_ids, perhaps token_type_ids, perhaps labels; not padded

AT_ONCE = 2048, 1_000_000  # texts and characters given to the tokenizer in one call: many for speed, few for memory
# Families that number positions from pad_token_id + 1 on, so that the first of max_position_embeddings stay unused.
OFFSET_FAMILIES = {
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task(ABC):
    """Texts in, one answer each out; `Classification` and `Regression` say what an answer is."""

    kind: ClassVar[str]
    metric: ClassVar[str]
    number: ClassVar[type[int] | type[float]]  # what a label is

    @abstractmethod
    def configure(self) -> dict[str, Any]:
        """What `from_pretrained` of a config or a sequence classification model is to be told of the head."""

    @abstractmethod
    def score(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """The metric over all examples: logits (n, classes) or (n, 1), labels (n,)."""

    @abstractmethod
    def right(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64] | None:
        """Per example 1 for a right answer and 0 for a wrong one (n,); None where an answer is a number."""

    def encode(self, tokenizer: Any, split: Split, max_length: int) -> list[Example]:
        """The examples of a split as token ids, in order: index, input_ids, [token_type_ids], [labels]; no padding.

        A longer text is truncated (of a pair the longer one first), and one log line tells how many were. The tokenizer
        is left as it was. ValueError: max_length leaves no room for text.
        """
        examples: list[Example] = []
        for found in _encoded(tokenizer, split, max_length):
            for row in range(len(found["input_ids"])):
                examples.append({"index": len(examples)} | {key: found[key][row] for key in found})
        for example, label in zip(examples, split.labels or (), strict=split.labels is not None):
            example["labels"] = self.number(label)
        return examples

    def collate(self, examples: Sequence[Example], pad_id: int, multiple: int = 1) -> dict[str, "Tensor"]:
        """A batch: index (B,), input_ids and attention_mask (B, T), [token_type_ids (B, T)], [labels (B,)].

        T is the length of the longest example, rounded up to a multiple; padding stands on the right.
        """
        import torch

        lengths = [len(example["input_ids"]) for example in examples]
        width = -(-max(lengths) // multiple) * multiple
        batch = {"index": torch.tensor([example["index"] for example in examples])}
        for key, filler in (("input_ids", pad_id), ("token_type_ids", 0)):
            if key in examples[0]:
                batch[key] = torch.tensor([[*e[key], *[filler] * (width - len(e[key]))] for e in examples])  # (B, T)
        batch["attention_mask"] = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()  # (B, T)
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([self.number(example["labels"]) for example in examples])
        return batch


@dataclass(frozen=True)
class Classification(Task):
    """One of the classes called labels; logits (n, classes), labels (n,) are class indices."""

    labels: tuple[str, ...]
    kind: ClassVar[str] = "text-classification"
    metric: ClassVar[str] = "accuracy"
    number: ClassVar[type[int] | type[float]] = int

    def configure(self) -> dict[str, Any]:
        """As many outputs as classes, by name."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def score(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """Accuracy: the share of right answers."""
        return float(self.right(logits, labels).mean())

    def right(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Whether the largest logit is that of the label; where one is not a number, the answer is wrong."""
        assert logits.shape == (len(labels), len(self.labels)), (logits.shape, len(labels), self.labels)
        right: NDArray[np.bool_] = (logits.argmax(1) == labels) & ~np.isnan(logits).any(1)
        return right.astype(np.int64)


@dataclass(frozen=True)
class Regression(Task):
    """One number; logits (n, 1) or (n,), labels (n,)."""

    kind: ClassVar[str] = "text-regression"
    metric: ClassVar[str] = "pearson"
    number: ClassVar[type[int] | type[float]] = float

    def configure(self) -> dict[str, Any]:
        """One output, trained by mean squared error."""
        return {"num_labels": 1, "problem_type": "regression"}

    def score(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """Pearson's correlation of answers and labels; not a number where either is the same for all examples."""
        answers, wanted = np.asarray(logits, float).reshape(-1), np.asarray(labels, float).reshape(-1)
        assert answers.shape == wanted.shape, (answers.shape, wanted.shape)
        answers, wanted = answers - answers.mean(), wanted - wanted.mean()
        norm = float(np.sqrt((answers @ answers) * (wanted @ wanted)))
        return float(np.clip(answers @ wanted / norm, -1, 1)) if norm else float("nan")

    def right(self, logits: NDArray[Any], labels: NDArray[Any]) -> None:
        """None: a number is nearer or farther, not right or wrong."""


def of(data: Data) -> Classification | Regression:
    """The task that data poses. ValueError: it has no labels."""
    if any(split.labels is None for split in data.splits.values()):
        raise ValueError(f"{data.name} was read without labels, expected some; name their column with --label")
    return Regression() if data.labels is None else Classification(data.labels)


def of_model(config: Any) -> Classification | Regression:
    """The task that a model was made for; config: a transformers config, or the contents of a config.json.

    ValueError: a head with several labels per text.
    """
    problem = _entry(config, "problem_type")
    if problem == "multi_label_classification":
        raise ValueError("the model gives several labels to a text (problem_type), expected one class or one number")
    names = _entry(config, "id2label") or {0: "LABEL_0", 1: "LABEL_1"}  # a config.json leaves its default out
    labels = tuple(str(names[i]) for i in sorted(names, key=int))  # in JSON the keys are strings
    return Regression() if problem == "regression" or len(labels) == 1 else Classification(labels)


def max_length(tokenizer: Any, config: Any, cap: int | None = 128) -> int:
    """How many tokens of a text are read: what tokenizer and model can take, at most cap (None: all they can take).

    RoBERTa and its kin number positions from pad_token_id + 1 on: of 514 position embeddings, 512 serve.
    """
    positions = _entry(config, "max_position_embeddings") or _entry(config, "n_positions") or 0
    kin = {_entry(config, "model_type"), *(getattr(c, "model_type", None) for c in type(config).__mro__)}
    if kin & OFFSET_FAMILIES and positions > 0:
        pad = 1 if "mpnet" in kin else _entry(config, "pad_token_id")  # mpnet's is written into its code
        positions -= (1 if pad is None else pad) + 1
    limits = [limit for limit in (tokenizer.model_max_length, positions, cap) if limit and limit > 0]
    return int(min(limits))  # where nothing limits, transformers' "very large" model_max_length stays


def _entry(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _encoded(tokenizer: Any, split: Split, max_length: int) -> Iterator[Mapping[str, list[list[int]]]]:
    """input_ids, [token_type_ids] of a split, chunk by chunk; a log line at the end tells how many were truncated."""
    special = tokenizer.num_special_tokens_to_add(pair=split.pairs is not None)
    if max_length < special + 1 + (split.pairs is not None):  # below that, tokenizers silently do not truncate at all
        raise ValueError(f"max_length {max_length} leaves no room for text beside {special} special tokens; raise it")
    cut = 0
    with _as_it_was(tokenizer):
        for start, stop in _chunks(split):
            texts, pairs = list(split.texts[start:stop]), split.pairs and list(split.pairs[start:stop])
            found = tokenizer(
                texts, pairs, truncation=True, max_length=max_length, padding=False, return_attention_mask=False
            )
            for row, ids in enumerate(found["input_ids"]):
                if len(ids) == max_length:
                    if found.encodings:
                        cut += bool(found.encodings[row].overflowing)
                    else:  # a tokenizer in Python does not say what it cut off
                        whole = tokenizer([texts[row]], pairs and [pairs[row]], verbose=False)
                        cut += len(whole["input_ids"][0]) > max_length
            yield {key: found[key] for key in ("input_ids", "token_type_ids") if key in found}
    if cut:
        longest = max(map(len, split.texts))
        logger.warning(
            "%d of %d texts are longer than %d tokens and are truncated; the longest has %s characters",
            *(cut, len(split), max_length, f"{longest:,}"),
        )


def _chunks(split: Split) -> Iterator[tuple[int, int]]:
    """Bounds of runs of texts that stay within AT_ONCE; a text that is longer alone goes alone."""
    start = size = 0
    for stop, text in enumerate(split.texts):
        if stop > start and (stop - start == AT_ONCE[0] or size + len(text) > AT_ONCE[1]):
            yield start, stop
            start, size = stop, 0
        size += len(text)
    if split.texts:
        yield start, len(split)


@contextmanager
def _as_it_was(tokenizer: Any) -> Iterator[None]:
    """Give a tokenizer its truncation and padding back, which every call changes and `save_pretrained` writes down."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation()
        backend.no_padding()
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)
