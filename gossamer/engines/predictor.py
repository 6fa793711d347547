"""Texts in, answers out, whatever runs in between: batches sorted by length, answers in the order of the texts."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.packing import worth
from gossamer.engines.texts import Facts, Reader
from gossamer.formats import COLUMNS
from gossamer.rows import halved
from gossamer.task.kind import Decode, Read
from gossamer.task.reading import answers as joined
from gossamer.task.reading import limit

WINDOW = 1024  # texts that are sorted together: padding falls from a half to a twelfth, and memory stays small

Batch = dict[str, NDArray[np.int64]]  # input_ids, attention_mask, [token_type_ids]: (B, T), right padded
Outputs = NDArray[Any] | Sequence[NDArray[Any]]
Run = Callable[[Batch], Outputs]  # -> logits (B, classes), or whatever the task's outputs are
Pack = Callable[[Sequence[Read]], Iterator[tuple[int, Sequence[NDArray[Any]]]]]  # -> outputs as of batches of one
WIDEST = 2**27  # numbers that a language model may put out at once, half a gigabyte

logger = logging.getLogger(__name__)


class Predictor:
    """An artefact that answers.  It may be called from several threads at once.

    name: the engine.  task: what it answers (gossamer.task).  labels: the classes in the order of the logits, None
    where answers are no classes.  model: the torch model, None where there is none.  run: answers for a padded batch;
    pack: for texts laid end to end, used where that saves tokens, or where there is no other way.
    """

    def __init__(
        self,
        name: str,
        facts: Facts,
        read: Reader,
        run: Run | None,
        model: Any = None,
        decode: Decode | None = None,
        pack: Pack | None = None,
    ) -> None:
        self.name, self.task, self.labels, self.model = name, facts.task, facts.labels, model
        self.facts, self.read, self.run, self.decode, self.pack = facts, read, run, decode, pack
        self._cuts = Cuts(facts)

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32) -> Any:
        """(n, classes) in the order of the texts; (n, 1) for a regression; else what the task's answers are.

        A text longer than the model can read is truncated (of a pair the longer one first); the log says so once, with
        how many of the texts so far are.

        Raises:
            ValueError: something else than texts, as many pairs as there are not texts, or an empty batch.
        """
        texts, pairs = _check(texts, pairs, batch_size)
        answers: list[Any] = []
        for start in range(0, len(texts), WINDOW):
            some, others = texts[start : start + WINDOW], None if pairs is None else pairs[start : start + WINDOW]
            answers += self.answers(self.reads(some, others), some, others, batch_size)
        return self.task.stack(answers)

    def reads(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Read]:
        """What the tokenizer makes of texts: the half of `logits` that needs no model.  ValueError: unwanted pairs."""
        if pairs is not None and not COLUMNS[self.task.kind][1]:
            raise ValueError(f"{self.task.kind} reads texts alone, found pairs; leave --pair away (in Python pairs=)")
        found = self.read(texts, pairs)
        self._cuts.add(sum(one.cut for one in found), len(texts))
        return found

    def answers(
        self, reads: Sequence[Read], texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Any]:
        """The other half: the answer to each of the texts that were read, as the task has it."""
        parts = self._parts([part for one in reads for part in (one, *one.more)], batch_size)
        return joined(self.task, reads, parts, texts, pairs, self.decode)

    def _parts(self, reads: Sequence[Read], batch_size: int) -> Iterator[Any]:
        """What the model says of each reading, in their order; run in batches of like length."""
        found: list[Any] = [None] * len(reads)
        if self.pack is not None and (self.run is None or worth([len(one.ids) for one in reads], batch_size)):
            for i, outputs in self.pack(reads):
                found[i] = self.task.cut(outputs, 0, reads[i])
            return iter(found)
        assert self.run is not None, "a predictor has one way at least"
        order = sorted(range(len(reads)), key=lambda i: -len(reads[i].ids))
        first = 0
        while first < len(order):
            rows = order[first : first + at_once(batch_size, self.facts.vocabulary, len(reads[order[first]].ids))]
            said = self.run(pad([reads[i] for i in rows], self.facts))
            outputs = (said,) if isinstance(said, np.ndarray) else said
            for row, i in enumerate(rows):
                found[i] = self.task.cut(outputs, row, reads[i])
            first += len(rows)
        return iter(found)

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """{"label", "score"} of each text's best class with its probability; {"value"} for a regression; and so on.

        Each kind of task says in its `told` what it tells.
        """
        return [self.task.told(answer) for answer in self.logits(texts, pairs, batch_size)]


class Cuts:
    """Says once that texts are truncated, when the first of them are: how many of all so far."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.texts, self.said = facts, 0, False

    def add(self, cut: int, texts: int) -> None:
        """So many more texts were read, and so many of them cut."""
        self.texts += texts
        if cut and not self.said:
            self.said = True
            logger.warning(
                "%d of the first %d %s are longer than %d tokens and are truncated; later ones are not counted",
                *(cut, self.texts, *limit(self.facts.task, self.facts.max_length)),
            )


def at_once(batch_size: int, vocabulary: int, longest: int) -> int:
    """How many texts a model is asked at once: fewer where it puts out the whole vocabulary for every token."""
    return min(batch_size, max(1, WIDEST // (vocabulary * longest))) if vocabulary else batch_size


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


def _check(texts: Iterable[str], pairs: Iterable[str] | None, batch_size: int) -> tuple[list[str], list[str] | None]:
    """Texts and pairs as lists."""
    found, others = _listed("texts", texts), None if pairs is None else _listed("pairs", pairs)
    if others is not None and len(others) != len(found):
        raise ValueError(f"found {len(found)} texts and {len(others)} pairs, expected as many of one as of the other")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    return found, others


def _listed(name: str, given: Iterable[Any]) -> list[str]:
    """Texts in a list, whatever holds them."""
    no_list = isinstance(given, str | bytes | Mapping | Set) or getattr(given, "ndim", 1) != 1
    if no_list or not isinstance(given, Iterable):
        raise ValueError(f"{name} is one {type(given).__name__}, expected a list of str; type [text]")
    found = list(given)
    for i, one in enumerate(found):
        if not isinstance(one, str):
            raise ValueError(f"{name}[{i}] is {type(one).__name__}, expected str")
        if half := halved(one):
            raise ValueError(f'{name}[{i}] holds {half}; mend it, or type text.encode(errors="replace").decode()')
    return found
