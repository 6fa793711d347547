"""What a task is: from texts to token ids, to batches, from what a model puts out to answers, and to a score.

A text is read as one or several `Read`s (a long context has several windows); a model puts out arrays for a batch of
them; `cut` takes one Read's part of those, `join` makes the text's answer of its parts.  Training goes another way to
the same head: examples, `collate`, and what the model `said` of a batch.  torch is imported only where a batch is made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Split

Example = dict[str, Any]  # index, input_ids, perhaps token_type_ids, perhaps labels; not padded
Decode = Callable[[list[int]], str]
LABELS = ("labels", "start_positions", "end_positions")  # what models call what they learn from
IGNORED = -100  # a place without a label, as torch's cross-entropy has it


class Read(NamedTuple):
    """A text, a pair or a window as token ids and token types.

    cut: whether the text's end had to go.  note: what the task must know of it to make sense of the model's answer.
    more: further readings of the same text, such as later windows.
    """

    ids: list[int]
    types: list[int]
    cut: bool
    note: Any = None
    more: "tuple[Read, ...]" = ()


@dataclass(frozen=True)
class Said:
    """What a model said of a batch, in training.

    loss: the task's, None where there are no labels.  logits: (rows, classes), a row for each text, word or position
    that is asked about.  numbers: the logits are numbers, not of classes.
    """

    loss: "Tensor | None"
    logits: "Tensor"
    numbers: bool = False


class Flat(NamedTuple):
    """Answers as rows: logits (m, classes), labels (m,) or None, and the text that each row belongs to (m,)."""

    logits: NDArray[Any]
    labels: NDArray[np.int64] | None
    owners: NDArray[np.int64]


@dataclass(frozen=True)
class Task(ABC):
    """Texts in, answers out; each subclass says what an answer is.

    kind: as --task names it.  auto: the class of transformers that loads such a model.  outputs: what of the model's
    output an answer is made of.  interval: how sure a score is.  better: which scores are.  per_text: one answer of
    fixed size a text, so that texts may stop early and tokens leave.  apart: a pair is two readings, not one.  led: the
    decoder reads the labels.  bare: the model itself has no head and takes no labels.  numeric: an answer is a number,
    of which no two are the same.  wide: an output is as wide as the vocabulary, for every token.  first_cut: which of
    a pair is cut.  stride: tokens that windows of one text have in common.
    """

    kind: ClassVar[str]
    metric: ClassVar[str]
    auto: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "wilson"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    per_text: ClassVar[bool] = True
    apart: ClassVar[bool] = False
    led: ClassVar[bool] = False
    bare: ClassVar[bool] = False
    wide: ClassVar[bool] = False
    numeric: ClassVar[bool] = False
    first_cut: ClassVar[Literal["longest_first", "only_second"]] = "longest_first"
    stride: ClassVar[int] = 0

    def configure(self) -> dict[str, Any]:
        """What `from_pretrained` is to be told of the head."""
        return {}

    def read(self, spelled: Any, text: str, pair: str | None, mask_id: int | None) -> Read:
        """What a tokenizer made of a text: an Encoding of tokenizers, or `gossamer.task.reading.Spelled`."""
        return Read(spelled.ids, list(spelled.type_ids), bool(spelled.overflowing))

    @abstractmethod
    def examples(self, read: Read, label: Any) -> list[Example]:
        """What is learned from a reading; label: None where there is none."""

    def complete(self, examples: Sequence[Example], tokenizer: Any, split: "Split", max_length: int) -> None:  # noqa: B027
        """Add to a split's examples what it takes a tokenizer to say of their labels: of most, nothing."""

    def asks(self, example: Example) -> bool:
        """Whether something can be learned from an example; a batch without anything to learn has no loss."""
        return True

    def fill(self, examples: Sequence[Example], width: int) -> dict[str, "Tensor"]:
        """What a batch of examples has beside index, input_ids, attention_mask and token_type_ids."""
        return {}

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
        return batch | self.fill(examples, width)

    def given(self, batch: Mapping[str, "Tensor"], labels: bool = True) -> dict[str, "Tensor"]:
        """What of a batch the model is called with."""
        without = {"index"} if (labels or self.led) and not self.bare else {"index", *LABELS}
        return {key: value for key, value in batch.items() if key not in without}

    def probe(self, batch: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """What of a batch the model answers without having labels."""
        given = self.given(batch, labels=False)
        if self.led and "labels" in given:
            given["decoder_input_ids"] = given.pop("labels").clamp(min=0)
        return given

    @abstractmethod
    def said(self, out: Any, batch: Mapping[str, "Tensor"]) -> Said:
        """What the model said of a batch."""

    def errors(self, said: Said, batch: Mapping[str, "Tensor"]) -> "Tensor":
        """Of each text of a batch the loss, (B,): cross-entropy, or the squared error of a number."""
        from torch.nn import functional as F

        z, y = said.logits.float(), batch["labels"]
        return (z[:, 0] - y.float()).square() if said.numbers else F.cross_entropy(z, y, reduction="none")

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> Any:
        """One reading's part of what the model put out for a batch, (B, ...) each."""
        return outputs[0][row]

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """The answer to a text: that to its one reading, unless a task has several."""
        return parts[0]

    def stack(self, answers: Sequence[Any]) -> Any:
        """All answers together: an array where they are of one size, else a list."""
        return list(answers)

    @abstractmethod
    def told(self, answer: Any) -> dict[str, Any]:
        """An answer in words and plain numbers."""

    def score(self, answers: Any, labels: Any) -> float:
        """The metric over all texts: their answers and their labels."""
        tally = self.tally(answers, labels)
        assert tally is not None, f"{type(self).__name__} neither keeps a tally nor scores otherwise"
        return self.of_tally(tally.sum(0))

    def tally(self, answers: Any, labels: Any) -> NDArray[np.float64] | None:
        """Of each text the numbers whose sums make the score, (n, some); None where the score is of another kind."""
        return None

    def of_tally(self, sums: NDArray[np.float64]) -> float:
        """The score of texts whose tallies add up to `sums`."""
        raise AssertionError(f"{type(self).__name__} keeps no tally")

    def right(self, answers: Any, labels: Any) -> NDArray[np.int64] | None:
        """Per unit (text, word, position) 1 for right and 0 for wrong; None where that is no question."""
        return None

    def same(self, first: Any, second: Any) -> NDArray[np.bool_] | None:
        """Per unit, whether two models answer alike; None where an answer is a number."""
        return None

    def flat(self, answers: Any, labels: Any) -> Flat | None:
        """The answers as rows of class logits; None where an answer is something else."""
        return None

    def finite(self, answers: Any) -> NDArray[np.bool_]:
        """(n,): whether the numbers that each text's answer was made of are numbers."""
        return np.array([bool(np.isfinite(np.asarray(one, dtype=np.float64)).all()) for one in answers], dtype=bool)

    def reorder(self, answers: Any, order: Sequence[int]) -> Any:
        """The answers with their classes in another order; order: for each class, where it stands now."""
        return answers

    def fits(self, split: "Split") -> None:  # noqa: B027 - most splits do
        """Raise ValueError if this split cannot be what the task is about."""
