"""Words that are left to guess: hidden ones (masked language models), or each the next (causal ones).

An answer is (positions, 2): the negative log-likelihood in nats of the word that stood there, and the word that the
model finds likeliest.  The measure is perplexity, the exponential of the mean of the first over all positions of all
texts; it depends on the tokenizer, so that only models that read the same tokens can be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .kind import IGNORED, Decode, Example, Read, Said, Task
from .tagging import errors_by_token, per_token

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Split

HIDDEN = 0.15  # of the words (Devlin et al., NAACL 2019, section 3.1)


@dataclass(frozen=True)
class LanguageModelling(Task):
    """What both kinds have in common: positions, likelihoods, perplexity."""

    metric: ClassVar[str] = "perplexity"
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "bootstrap"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    per_text: ClassVar[bool] = False
    wide: ClassVar[bool] = True

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """labels (B, T), where the examples have them."""
        return per_token(examples, width)

    def asks(self, example: Example) -> bool:
        """Whether a word is to be told."""
        return any(label != IGNORED for label in example["labels"])

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """(positions, 2), over all windows."""
        return np.concatenate(parts)

    def told(self, answer: Any) -> dict[str, Any]:
        """{"perplexity", "tokens"}: of the one text, over so many positions."""
        told = float(np.exp(answer[:, 0].mean())) if len(answer) else None
        return {"perplexity": told, "tokens": len(answer)}

    def tally(self, answers: Any, labels: Any) -> NDArray[np.float64]:
        """Of each text the nats, and the positions."""
        found = [(float(one[:, 0].sum()), float(len(one))) for one in map(_positions, answers)]
        return np.array(found, dtype=np.float64).reshape(-1, 2)

    def of_tally(self, sums: NDArray[np.float64]) -> float:
        """Perplexity; not a number where there is no position, infinite where it is beyond all numbers."""
        with np.errstate(over="ignore"):
            return float(np.exp(sums[0] / sums[1])) if sums[1] else float("nan")

    def same(self, first: Any, second: Any) -> NDArray[np.bool_]:
        """Of each position, whether both find the same word likeliest."""
        one, two = (np.concatenate([np.zeros((0, 2)), *map(_positions, side)])[:, 1] for side in (first, second))
        if len(one) != len(two):
            raise ValueError(
                f"one model was asked for {len(one):,} words and the other for {len(two):,}; perplexities and answers "
                "can be compared where both read the same tokens, as many of each text"
            )
        return np.asarray(one == two)

    def finite(self, answers: Any) -> NDArray[np.bool_]:
        """Whether all likelihoods are numbers."""
        return np.array([bool(np.isfinite(_positions(one)).all()) for one in answers], dtype=bool)

    def fits(self, split: "Split") -> None:
        """Raise ValueError where there are pairs."""
        if split.pairs is not None:
            raise ValueError(f"{self.kind} reads texts alone, found pairs; name their column with another --pair")


@dataclass(frozen=True)
class MaskedLM(LanguageModelling):
    """A seventh of a text's tokens is hidden, the same ones each time; all of them become the mask (no random words).

    Which ones depends on the text alone, so that every model is asked the same.  Where a text holds the mask itself,
    only that is asked for.
    """

    kind: ClassVar[str] = "masked-lm"
    auto: ClassVar[str] = "AutoModelForMaskedLM"

    def read(self, spelled: Any, text: str, pair: str | None, mask_id: int | None) -> Read:
        """note: the hidden places and the words that stood there (positions,), -1 where a mask stood already."""
        if mask_id is None:
            raise ValueError("the tokenizer has no mask token, which a masked language model needs; load its own")
        first, *rest = (self._hidden(one, mask_id) for one in windowed(spelled))
        return first._replace(more=tuple(rest))

    def _hidden(self, spelled: Any, mask_id: int) -> Read:
        ids = np.array(spelled.ids, dtype=np.int64)
        places = np.flatnonzero(ids == mask_id)
        words = np.full(len(places), -1, dtype=np.int64)
        if not len(places):
            free = np.flatnonzero(np.array(spelled.special_tokens_mask) == 0)
            chance = np.random.default_rng(crc32(ids.tobytes()))
            some = min(len(free), max(1, round(HIDDEN * len(free))))  # none of none
            places = np.sort(chance.choice(free, some, replace=False))
            words = ids[places]
            ids[places] = mask_id
        return Read(ids.tolist(), list(spelled.type_ids), False, (places, words))

    def examples(self, read: Read, label: Any) -> list[Example]:
        """labels: the words that were hidden, at their places; an example a window."""
        made: list[Example] = []
        for one in (read, *read.more):
            places, words = one.note
            labels = np.full(len(one.ids), IGNORED, dtype=np.int64)
            labels[places] = np.where(words < 0, IGNORED, words)
            made.append({"input_ids": one.ids, "token_type_ids": one.types, "labels": labels.tolist()})
        return made

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (hidden words, vocabulary)."""
        asked = batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()
        return Said(out.get("loss"), out.logits[asked])

    def errors(self, said: Said, batch: "Mapping[str, Tensor]") -> "Tensor":
        """The mean over the hidden words."""
        return errors_by_token(said, batch)

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> NDArray[Any]:
        """(positions, 2)."""
        places, words = read.note
        return likelihoods(outputs[0][row, places], words)

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """(positions, 2); for a text that holds masks {"words"}: what goes in their places."""
        found = np.concatenate(parts)
        asked = np.concatenate([one.note[1] for one in (read, *read.more)])
        if decode is None or (asked >= 0).all():
            return found
        return {"words": [decode([int(word)]).strip() for word in found[asked < 0, 1]]}

    def told(self, answer: Any) -> dict[str, Any]:
        """{"words"} in the places of masks; else {"perplexity", "tokens"}."""
        return answer if isinstance(answer, dict) else super().told(answer)


@dataclass(frozen=True)
class CausalLM(LanguageModelling):
    """Each token of a text is to be told from those before it."""

    kind: ClassVar[str] = "causal-lm"
    auto: ClassVar[str] = "AutoModelForCausalLM"

    def read(self, spelled: Any, text: str, pair: str | None, mask_id: int | None) -> Read:
        """more: the later windows of a long text."""
        first, *rest = (Read(one.ids, list(one.type_ids), False) for one in windowed(spelled))
        return first._replace(more=tuple(rest))

    def examples(self, read: Read, label: Any) -> list[Example]:
        """labels: the tokens themselves; the model shifts them."""
        return [{"input_ids": one.ids, "labels": list(one.ids)} for one in (read, *read.more)]

    def asks(self, example: Example) -> bool:
        """Whether a word has one before it."""
        return len(example["labels"]) > 1

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (tokens that have one after them, vocabulary)."""
        return Said(out.get("loss"), out.logits[:, :-1][batch["attention_mask"][:, 1:].bool()])

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> NDArray[Any]:
        """(tokens - 1, 2)."""
        words = np.array(read.ids[1:], dtype=np.int64)
        return likelihoods(outputs[0][row, : len(words)], words)


def _positions(answer: Any) -> NDArray[np.float64]:
    """(positions, 2); none for a text that held masks, of which nobody knows what stood there."""
    return np.zeros((0, 2)) if isinstance(answer, dict) else np.asarray(answer)


def windowed(spelled: Any) -> list[Any]:
    """A text's windows, one after the other; of a tokenizer in Python the first one only."""
    more = spelled.overflowing
    return [spelled, *(more if isinstance(more, (list, tuple)) else ())]


def likelihoods(logits: NDArray[Any], words: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of (positions, vocabulary) logits and (positions,) words: (positions, 2), nats and the likeliest word."""
    found = np.zeros((len(words), 2), np.float64)
    if len(words):
        x = logits.astype(np.float64)
        top = x.max(-1, keepdims=True)
        total = np.log(np.exp(x - top).sum(-1)) + top[:, 0]
        found[:, 0] = np.where(words < 0, 0.0, total - x[np.arange(len(words)), words])
        found[:, 1] = x.argmax(-1)
    return found
