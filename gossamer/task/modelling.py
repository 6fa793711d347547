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

from gossamer.data import Split

from .kind import IGNORED, Decode, Example, Read, Said, Task
from .tagging import per_token

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN = 0.15  # of the words (Devlin et al., NAACL 2019, section 3.1)


@dataclass(frozen=True)
class LanguageModelling(Task):
    """What both kinds have in common: positions, likelihoods, perplexity."""

    metric: ClassVar[str] = "perplexity"
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "bootstrap"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    per_text: ClassVar[bool] = False
    wide: ClassVar[bool] = True
    columns: ClassVar[tuple[str, str, str | None]] = ("text", "", None)

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """labels (B, T), where the examples have them."""
        return per_token(examples, width)

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """(positions, 2)."""
        return parts[0]

    def told(self, answer: Any) -> dict[str, Any]:
        """{"perplexity", "tokens"}: of the one text, over so many positions."""
        told = float(np.exp(answer[:, 0].mean())) if len(answer) else None
        return {"perplexity": told, "tokens": len(answer)}

    def score(self, answers: Sequence[NDArray[Any]], labels: Any) -> float:
        """Perplexity over all positions; not a number where there is none."""
        total = sum(len(one) for one in answers)
        return float(np.exp(sum(float(one[:, 0].sum()) for one in answers) / total)) if total else float("nan")

    def right(self, answers: Any, labels: Any) -> NDArray[np.int64] | None:
        """None: perplexity does not ask which word is likeliest."""
        return None

    def same(self, first: Any, second: Any) -> NDArray[np.bool_]:
        """Of each position, whether both find the same word likeliest."""
        one, two = (np.concatenate([np.zeros((0, 2)), *side])[:, 1] for side in (first, second))
        return np.asarray(one == two)

    def fits(self, split: Split) -> None:
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
        ids = np.array(spelled.ids, dtype=np.int64)
        places = np.flatnonzero(ids == mask_id)
        words = np.full(len(places), -1, dtype=np.int64)
        if not len(places):
            free = np.flatnonzero(np.array(spelled.special_tokens_mask) == 0)
            chance = np.random.default_rng(crc32(ids.tobytes()))
            some = min(len(free), max(1, round(HIDDEN * len(free))))
            places = np.sort(chance.choice(free, some, replace=False))
            words = ids[places]
            ids[places] = mask_id
        return Read(ids.tolist(), spelled.type_ids, bool(spelled.overflowing), (places, words))

    def examples(self, read: Read, label: Any) -> list[Example]:
        """labels: the words that were hidden, at their places."""
        places, words = read.note
        labels = np.full(len(read.ids), IGNORED, dtype=np.int64)
        labels[places] = np.where(words < 0, IGNORED, words)
        return [{"input_ids": read.ids, "token_type_ids": read.types, "labels": labels.tolist()}]

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (hidden words, vocabulary)."""
        asked = batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()
        return Said(out.get("loss"), out.logits[asked])

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> NDArray[Any]:
        """(positions, 2)."""
        places, words = read.note
        return likelihoods(outputs[0][row, places], words)

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """(positions, 2); for a text that holds masks {"words"}: what goes in their places."""
        if decode is None or not len(parts[0]) or (read.note[1] >= 0).any():
            return parts[0]
        return {"words": [decode([int(word)]).strip() for word in parts[0][:, 1]]}

    def told(self, answer: Any) -> dict[str, Any]:
        """{"words"} in the places of masks; else {"perplexity", "tokens"}."""
        return answer if isinstance(answer, dict) else super().told(answer)


@dataclass(frozen=True)
class CausalLM(LanguageModelling):
    """Each token of a text is to be told from those before it."""

    kind: ClassVar[str] = "causal-lm"
    auto: ClassVar[str] = "AutoModelForCausalLM"

    def examples(self, read: Read, label: Any) -> list[Example]:
        """labels: the tokens themselves; the model shifts them."""
        return [{"input_ids": read.ids, "labels": list(read.ids)}]

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (tokens that have one after them, vocabulary)."""
        return Said(out.get("loss"), out.logits[:, :-1][batch["attention_mask"][:, 1:].bool()])

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> NDArray[Any]:
        """(tokens - 1, 2)."""
        words = np.array(read.ids[1:], dtype=np.int64)
        return likelihoods(outputs[0][row, : len(words)], words)


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
