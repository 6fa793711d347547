"""Another text for each text: translation, summary, transliteration."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .kind import IGNORED, Decode, Example, Read, Said, Task
from .reading import as_it_was
from .tagging import per_token

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Split

GENERATED = "generated"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seq2Seq(Task):
    """texts become labels, which are texts.  An answer is what the model generates, as its generation config says."""

    kind: ClassVar[str] = "seq2seq"
    metric: ClassVar[str] = "chrf"
    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    outputs: ClassVar[tuple[str, ...]] = (GENERATED,)
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "bootstrap"
    per_text: ClassVar[bool] = False
    led: ClassVar[bool] = True

    def examples(self, read: Read, label: Any) -> list[Example]:
        """Without the target, which `complete` adds."""
        return [{"input_ids": read.ids, "token_type_ids": read.types}]

    def complete(self, examples: Sequence[Example], tokenizer: Any, split: "Split", max_length: int) -> None:
        """labels: the tokens of the target, at most max_length; the log tells how many were cut."""
        if split.labels is None:
            return
        with as_it_was(tokenizer):
            whole = tokenizer(text_target=list(split.labels), truncation=False, verbose=False)["input_ids"]
            found = tokenizer(text_target=list(split.labels), truncation=True, max_length=max_length)["input_ids"]
        for example, ids in zip(examples, found, strict=True):
            example["labels"] = list(ids)
        cut = sum(len(a) > len(b) for a, b in zip(whole, found, strict=True))
        if cut:
            logger.warning("%d of %d targets are longer than %d tokens and are cut", cut, len(split), max_length)

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """labels (B, S), where the examples have them; S the longest target."""
        longest = max(len(example.get("labels", ())) for example in examples)
        return per_token(examples, longest)

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (target tokens, vocabulary)."""
        asked = batch["labels"] != IGNORED
        return Said(out.get("loss"), out.logits[asked])

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> list[int]:
        """The generated tokens."""
        return [int(i) for i in outputs[0][row]]

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> str:
        """The generated text."""
        assert decode is not None, "nobody said how token ids become a text"
        return decode([i for i in parts[0] if i >= 0])

    def told(self, answer: Any) -> dict[str, Any]:
        """{"target"}."""
        return {"target": answer}

    def tally(self, answers: Any, labels: Any) -> NDArray[np.float64]:
        """Of each text what chrF2 counts (Popović, WMT 2015)."""
        from gossamer.metrics.overlap import chrf_counts

        rows = [chrf_counts(a, b).reshape(-1) for a, b in zip(answers, labels, strict=True)]
        return np.array(rows, dtype=np.float64)

    def of_tally(self, sums: NDArray[np.float64]) -> float:
        """chrF2, in [0, 1]."""
        from gossamer.metrics.overlap import chrf_of

        return chrf_of(sums.reshape(-1, 3))

    def same(self, first: Any, second: Any) -> NDArray[np.bool_]:
        """Whether both write the same."""
        return np.array([a == b for a, b in zip(first, second, strict=True)], dtype=bool)

    def finite(self, answers: Any) -> NDArray[np.bool_]:
        """A text is a text."""
        return np.ones(len(answers), dtype=bool)

    def fits(self, split: "Split") -> None:
        """Raise ValueError where there are pairs."""
        if split.pairs is not None:
            raise ValueError(f"{self.kind} reads texts alone, found pairs; name their column with another --pair")
