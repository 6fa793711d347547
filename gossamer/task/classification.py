"""One class for each text, or for each pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .kind import Example, Flat, Read, Said, Task

if TYPE_CHECKING:
    from torch import Tensor


def head(labels: Sequence[str]) -> dict[str, Any]:
    """As many outputs as classes, by name."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }


@dataclass(frozen=True)
class Classification(Task):
    """One of the classes called labels; logits (n, classes), labels (n,) are class indices."""

    labels: tuple[str, ...]
    kind: ClassVar[str] = "text-classification"
    metric: ClassVar[str] = "accuracy"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    number: ClassVar[type[int] | type[float]] = int  # what a label is

    def configure(self) -> dict[str, Any]:
        """As many outputs as classes, by name."""
        return head(self.labels) | {"problem_type": "single_label_classification"}

    def examples(self, read: Read, label: Any) -> list[Example]:
        """One a text."""
        return one_each(read, label, self.number)

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """labels (B,) where the examples have them."""
        return labelled(examples, self.number)

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (B, classes)."""
        return Said(out.get("loss"), out.logits)

    def stack(self, answers: Sequence[Any]) -> NDArray[np.float32]:
        """(n, classes)."""
        return np.stack(answers) if len(answers) else np.zeros((0, len(self.labels)), np.float32)

    def told(self, answer: Any) -> dict[str, Any]:
        """{"label", "score"}: the best class and its probability."""
        powers = np.exp(answer - answer.max())
        best = int(answer.argmax())
        return {"label": self.labels[best], "score": float(powers[best] / powers.sum())}

    def score(self, answers: NDArray[Any], labels: NDArray[Any]) -> float:
        """Accuracy: the share of right answers."""
        return float(self.right(answers, labels).mean())

    def right(self, answers: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Whether the largest logit is that of the label; where one is not a number, the answer is wrong."""
        assert answers.shape == (len(labels), len(self.labels)), (answers.shape, len(labels), self.labels)
        right: NDArray[np.bool_] = (answers.argmax(1) == labels) & ~np.isnan(answers).any(1)
        return right.astype(np.int64)

    def same(self, first: Any, second: Any) -> NDArray[np.bool_]:
        """Whether both choose the same class."""
        return np.asarray(np.asarray(first).argmax(1) == np.asarray(second).argmax(1))

    def flat(self, answers: Any, labels: Any) -> Flat:
        """A row is a text."""
        found = np.asarray(answers)
        return Flat(found, None if labels is None else np.asarray(labels, dtype=np.int64), np.arange(len(found)))

    def reorder(self, answers: Any, order: Sequence[int]) -> Any:
        """The columns in another order."""
        return answers[:, list(order)]


def one_each(read: Read, label: Any, number: type[int] | type[float]) -> list[Example]:
    """The one example of a reading, labelled with one number."""
    example: Example = {"input_ids": read.ids, "token_type_ids": read.types}
    return [example if label is None else example | {"labels": number(label)}]


def labelled(examples: Sequence[Example], number: type[int] | type[float]) -> "dict[str, Tensor]":
    """Labels (B,) where the examples have them."""
    import torch

    if "labels" not in examples[0]:
        return {}
    return {"labels": torch.tensor([number(example["labels"]) for example in examples])}
