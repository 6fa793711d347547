"""Texts in, answers out, whatever runs in between: batches sorted by length, answers in the order of the texts."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.texts import Facts, Read, Reader

WINDOW = 1024  # texts that are sorted together: padding falls from a half to a twelfth, and memory stays small

Batch = dict[str, NDArray[np.int64]]  # input_ids, attention_mask, [token_type_ids]: (B, T), right padded
Run = Callable[[Batch], NDArray[np.float32]]  # -> logits (B, classes)

logger = logging.getLogger(__name__)


class Predictor:
    """An artefact that answers.  It may be called from several threads at once.

    name: the engine.  labels: the classes in the order of the logits, None for a regression.  model: the torch model,
    None where there is none.
    """

    def __init__(self, name: str, facts: Facts, read: Reader, run: Run, model: Any = None) -> None:
        self.name, self.labels, self.model = name, facts.labels, model
        self.facts, self.read, self.run = facts, read, run
        self._said = False

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """(n, classes) in the order of the texts; (n, 1) for a regression.

        A text longer than the model can read is truncated (of a pair the longer one first); the log says so once.

        Raises:
            ValueError: something else than texts, as many pairs as there are not texts, or an empty batch.
        """
        _check(texts, pairs, batch_size)
        answers = np.zeros((len(texts), self.facts.classes), np.float32)
        cut = 0
        for start in range(0, len(texts), WINDOW):
            stop = start + WINDOW
            window = self.read(texts[start:stop], None if pairs is None else pairs[start:stop])
            cut += sum(one.cut for one in window)
            order = sorted(range(len(window)), key=lambda i: -len(window[i].ids))
            for first in range(0, len(order), batch_size):
                rows = np.array(order[first : first + batch_size])
                answers[start + rows] = self.run(pad([window[i] for i in rows], self.facts))
        if cut and not self._said:
            self._said = True
            logger.warning(
                "%d of %d texts are longer than %d tokens and are truncated (said once)",
                *(cut, len(texts), self.facts.max_length),
            )
        return answers

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """{"label", "score"} of each text's best class with its probability; {"value"} for a regression."""
        logits = self.logits(texts, pairs, batch_size)
        if self.labels is None:
            return [{"value": float(value)} for value in logits[:, 0]]
        powers = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
        best, total = logits.argmax(1), powers.sum(1)
        return [{"label": self.labels[i], "score": float(powers[row, i] / total[row])} for row, i in enumerate(best)]


def pad(reads: Sequence[Read], facts: Facts) -> Batch:
    """What a model is given for these texts: (B, T), T the longest of them, padded on the right."""
    lengths = np.array([len(one.ids) for one in reads])
    seen = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    ids = np.full(seen.shape, facts.pad_id, np.int64)
    ids[seen] = np.concatenate([one.ids for one in reads])
    batch = {"input_ids": ids, "attention_mask": seen.astype(np.int64)}
    if facts.typed:
        batch["token_type_ids"] = np.zeros_like(ids)
        batch["token_type_ids"][seen] = np.concatenate([one.types for one in reads])
    return batch


def _check(texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int) -> None:
    for name, given in (("texts", texts), ("pairs", pairs)):
        if isinstance(given, str):
            raise ValueError(f"{name} is one str, expected a list of them; type [text]")
        for i, one in enumerate(() if given is None else given):
            if not isinstance(one, str):
                raise ValueError(f"{name}[{i}] is {type(one).__name__}, expected str")
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"found {len(texts)} texts and {len(pairs)} pairs, expected as many of one as of the other")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
