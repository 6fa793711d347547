"""One class for each word of a text: named entities, parts of speech, slots.

A text's words are what stands between its spaces; a word's answer is that of its first token (Devlin et al., NAACL
2019, section 5.3).  Words that were cut off are answered with nothing, logits of -inf, which is never right.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .classification import head
from .kind import IGNORED, Example, Flat, Read, Said, Task

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Split

WORD = re.compile(r"\S+")
NONE = "O"  # outside of every entity


@dataclass(frozen=True)
class TokenClassification(Task):
    """Tags called labels; an answer is (words, classes) logits, a label one class index for each word."""

    labels: tuple[str, ...]
    kind: ClassVar[str] = "token-classification"
    auto: ClassVar[str] = "AutoModelForTokenClassification"
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "bootstrap"
    per_text: ClassVar[bool] = False

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Accuracy where tags mark no entities."""
        return "f1" if self.chunked else "accuracy"

    def configure(self) -> dict[str, Any]:
        """As many outputs as tags, by name."""
        return head(self.labels)

    def read(self, spelled: Any, text: str, pair: str | None, mask_id: int | None) -> Read:
        """note: the place of each word's first token (words,), -1 for a word that was not read."""
        assert pair is None, "a pair of texts has no tags"
        spans = [
            (end, begin, token)
            for token, ((begin, end), sequence) in enumerate(zip(spelled.offsets, spelled.sequence_ids, strict=True))
            if sequence is not None
        ]
        places, at = [], 0
        for word in WORD.finditer(text):
            # a token belongs to the word that holds its end: some tokenizers count the space before a word to it
            while at < len(spans) and spans[at][0] <= word.start():
                at += 1
            read = at < len(spans) and spans[at][1] < word.end()  # else cut off, or made of nothing a tokenizer reads
            places.append(spans[at][2] if read else -1)
        return Read(spelled.ids, list(spelled.type_ids), bool(spelled.overflowing), np.array(places, dtype=np.int64))

    def examples(self, read: Read, label: Any) -> list[Example]:
        """labels: a class for each word's first token, none for the others."""
        example: Example = {"input_ids": read.ids, "token_type_ids": read.types}
        if label is None:
            return [example]
        labels = [IGNORED] * len(read.ids)
        for place, one in zip(read.note, label, strict=True):
            if place >= 0:
                labels[place] = int(one)
        return [example | {"labels": labels}]

    def asks(self, example: Example) -> bool:
        """Whether a word of it was read."""
        return any(label != IGNORED for label in example["labels"])

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """labels (B, T) where the examples have them."""
        return per_token(examples, width)

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (labelled words, classes); without labels those of all tokens."""
        asked = batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()
        return Said(out.get("loss"), out.logits[asked])

    def errors(self, said: Said, batch: "Mapping[str, Tensor]") -> "Tensor":
        """The mean over the words."""
        return errors_by_token(said, batch)

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> NDArray[Any]:
        """(words, classes); a row of -inf for each word that was not read."""
        found = np.asarray(outputs[0][row, read.note], dtype=np.float32)
        found[read.note < 0] = -np.inf
        return found

    def told(self, answer: Any) -> dict[str, Any]:
        """{"tags"}: one for each word, None where the text was cut off before it."""
        return {"tags": [None if np.isneginf(row).all() else self.labels[int(row.argmax())] for row in answer]}

    def tally(self, answers: Any, labels: Any) -> NDArray[np.float64]:
        """Of each text the entities that are right, found and there (CoNLL's measure).

        Where tags mark no entities, the words that are right, and all of them.
        """
        if not self.chunked:
            right, flat = self.right(answers, labels), self.flat(answers, labels)
            return np.stack([np.bincount(flat.owners, w, len(answers)) for w in (right, np.ones(len(right)))], 1)
        from gossamer.metrics.spans import span_scores

        rows = []
        for one, label in zip(answers, labels, strict=True):
            found = span_scores([self._tags(one)], [[self.labels[i] for i in label]]) if len(label) else None
            rows.append((0, 0, 0) if found is None else (found.right, found.predicted, found.labelled))
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    def of_tally(self, sums: NDArray[np.float64]) -> float:
        """F1 or accuracy."""
        if not self.chunked:
            return float(sums[0] / sums[1]) if sums[1] else float("nan")
        return float(2 * sums[0] / (sums[1] + sums[2])) if sums[1] + sums[2] else 0.0

    @property
    def chunked(self) -> bool:
        """Whether the tags mark the beginnings and insides of something, all of them."""
        marks = [name for name in self.labels if name != NONE]
        return bool(marks) and all(re.match(r"[BIESLUM]-.", name) for name in marks)

    def right(self, answers: Any, labels: Any) -> NDArray[np.int64]:
        """Of each word."""
        found = self.flat(answers, labels)
        assert found.labels is not None
        right: NDArray[np.bool_] = (found.logits.argmax(1) == found.labels) & np.isfinite(found.logits).all(1)
        return right.astype(np.int64)

    def same(self, first: Any, second: Any) -> NDArray[np.bool_]:
        """Whether both give a word the same tag."""
        one, two = self.flat(first, None).logits, self.flat(second, None).logits
        return np.asarray(one.argmax(1) == two.argmax(1))

    def flat(self, answers: Any, labels: Any) -> Flat:
        """A row is a word."""
        empty = np.zeros((0, len(self.labels)), np.float32)
        rows = np.concatenate([empty, *answers])
        owners = np.repeat(np.arange(len(answers)), [len(one) for one in answers])
        flat = None if labels is None else np.array([int(i) for one in labels for i in one], dtype=np.int64)
        assert flat is None or len(flat) == len(rows), (len(rows), None if flat is None else len(flat))
        return Flat(rows, flat, owners)

    def finite(self, answers: Any) -> NDArray[np.bool_]:
        """Rows of words that were cut off are no fault of the model's."""
        whole = (np.isfinite(one).all(1) | np.isneginf(one).all(1) for one in answers)
        return np.array([bool(rows.all()) for rows in whole], dtype=bool)

    def reorder(self, answers: Any, order: Sequence[int]) -> Any:
        """The columns in another order."""
        return [one[:, list(order)] for one in answers]

    def fits(self, split: "Split") -> None:
        """Raise ValueError unless there are texts alone, and as many tags as words."""
        if split.pairs is not None:
            raise ValueError(f"{self.kind} reads texts alone, found pairs; name their column with another --pair")
        for i, (text, tags) in enumerate(zip(split.texts, split.labels or (), strict=False)):
            if len(WORD.findall(text)) != len(tags):
                raise ValueError(
                    f"example {i + 1} has {len(WORD.findall(text))} words and {len(tags)} tags, expected one tag a "
                    "word; words are what stands between spaces"
                )

    def _tags(self, answer: NDArray[Any]) -> list[str]:
        return [NONE if tag is None else tag for tag in self.told(answer)["tags"]]


def errors_by_token(said: Said, batch: "Mapping[str, Tensor]") -> "Tensor":
    """Of each text the mean cross-entropy over the places that have a label, 0 where none has; (B,)."""
    from torch.nn import functional as F

    labels = batch["labels"]
    asked = labels != IGNORED
    each = F.cross_entropy(said.logits.float(), labels[asked], reduction="none")
    total = each.new_zeros(len(labels)).index_add(0, asked.nonzero()[:, 0], each)
    return total / asked.sum(1).clamp_min(1)


def per_token(examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
    """Labels (B, T) where the examples have them, padded with what counts nowhere."""
    import torch

    if "labels" not in examples[0]:
        return {}
    rows = [[*e["labels"], *[IGNORED] * (width - len(e["labels"]))] for e in examples]
    return {"labels": torch.tensor(rows)}
