"""One number for each text, or for each pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .classification import labelled, one_each
from .kind import Example, Read, Said, Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regression(Task):
    """One number; answers (n, 1) or (n,), labels (n,)."""

    kind: ClassVar[str] = "text-regression"
    metric: ClassVar[str] = "pearson"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "fisher"
    numeric: ClassVar[bool] = True
    number: ClassVar[type[int] | type[float]] = float

    def configure(self) -> dict[str, Any]:
        """One output, trained by mean squared error."""
        return {"num_labels": 1, "problem_type": "regression"}

    def examples(self, read: Read, label: Any) -> list[Example]:
        """One a text."""
        return one_each(read, label, float)

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """labels (B,) where the examples have them."""
        return labelled(examples, float)

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (B, 1)."""
        return Said(out.get("loss"), out.logits, numbers=True)

    def stack(self, answers: Sequence[Any]) -> NDArray[np.float32]:
        """(n, 1)."""
        return np.stack(answers) if len(answers) else np.zeros((0, 1), np.float32)

    def told(self, answer: Any) -> dict[str, Any]:
        """{"value"}."""
        return {"value": float(answer[0])}

    def score(self, answers: NDArray[Any], labels: NDArray[Any]) -> float:
        """Pearson's correlation of answers and labels; not a number where either is the same for all examples."""
        from gossamer.metrics.correlation import correlation

        return correlation(np.asarray(answers).reshape(-1), labels)
