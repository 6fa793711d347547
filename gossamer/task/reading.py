"""Texts as token ids: how many are read of each, in runs that stay small, with a word about those that were cut."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .kind import Decode, Example, Read, Task

if TYPE_CHECKING:
    from gossamer.data import Split

AT_ONCE = 2048, 1_000_000  # texts and characters given to the tokenizer in one call: many for speed, few for memory
# Families that number positions from pad_token_id + 1 on, so that the first of max_position_embeddings stay unused.
OFFSET_FAMILIES = {
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}

QUESTION = 64  # tokens of a question

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spelled:
    """What a tokenizer that exists in Python only says of a text: less than an Encoding of tokenizers does."""

    ids: list[int]
    type_ids: list[int]
    overflowing: bool

    def __getattr__(self, name: str) -> Any:
        """Raise ValueError: nobody knows the offsets."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise ValueError(
            f"the tokenizer does not tell where tokens stand in a text (no {name}), which this task needs; "
            "load one that has a tokenizer.json"
        )


def encode(task: Task, tokenizer: Any, split: "Split", max_length: int) -> list[Example]:
    """The examples of a split, in order: index, input_ids, [token_type_ids], [labels]; no padding.

    A longer text is truncated (of a pair the longer one first), and one log line tells how many were; a task with
    windows makes several examples of it.  The tokenizer is left as it was.

    Raises:
        ValueError: max_length leaves no room for text, or the tokenizer does not tell what the task needs.
    """
    task.fits(split)
    typed = "token_type_ids" in getattr(tokenizer, "model_input_names", ("token_type_ids",))
    found: list[Example] = []
    cut = empty = 0
    labels = split.labels or [None] * len(split)
    for read, label in zip(reads(task, tokenizer, split.texts, split.pairs, max_length), labels, strict=True):
        cut += read.cut
        for example in task.examples(read, label):
            if "labels" in example and not task.asks(example):
                empty += 1
                continue
            if not typed:
                example.pop("token_type_ids", None)
            found.append({"index": len(found)} | example)
    task.complete(found, tokenizer, split, max_length)
    if empty:
        logger.warning("%d of %d texts have nothing to learn from and are left out", empty, len(split))
    if cut:
        longest = max(map(len, split.texts))
        logger.warning(
            "%d of %d %s are longer than %d tokens and are truncated; the longest has %s characters",
            *(cut, len(split), *limit(task, max_length), f"{longest:,}"),
        )
    return found


def reads(
    task: Task, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> Iterator[Read]:
    """What a tokenizer of transformers makes of texts, one by one; nothing is written to the log."""
    if task.apart and pairs is not None:
        one, two = (list(reads(task, tokenizer, part, None, max_length)) for part in (texts, pairs))
        yield from (both(first, second) for first, second in zip(one, two, strict=True))
        return
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if max_length < special + 1 + (pairs is not None):  # below that, tokenizers silently do not truncate at all
        raise ValueError(f"max_length {max_length} leaves no room for text beside {special} special tokens; raise it")
    mask_id = getattr(tokenizer, "mask_token_id", None)
    stride = min(task.stride, max(0, max_length // 4))
    with as_it_was(tokenizer):
        for start, stop in _chunks(texts):
            some, others = list(texts[start:stop]), None if pairs is None else list(pairs[start:stop])
            if task.first_cut == "only_second":
                some = shortened(some, limit(task, max_length)[1], lambda text: alone(tokenizer, text))
            found = tokenizer(
                some, others, truncation=task.first_cut, stride=stride, max_length=max_length, padding=False,
                return_attention_mask=False,
            )  # fmt: skip
            for row in range(len(some)):
                pair = None if others is None else others[row]
                spelled: Any = found.encodings[row] if found.encodings else None
                if not found["input_ids"][row]:
                    spelled = Nothing(getattr(tokenizer, "pad_token_id", None) or 0)
                if spelled is None:
                    cut = len(found["input_ids"][row]) == max_length
                    if cut:  # a tokenizer in Python does not say what it cut off
                        whole = tokenizer([some[row]], None if pair is None else [pair], verbose=False)
                        cut = len(whole["input_ids"][0]) > max_length
                    ids = list(found["input_ids"][row])
                    types = found["token_type_ids"][row] if "token_type_ids" in found else [0] * len(ids)
                    spelled = Spelled(ids, list(types), cut)
                read = task.read(spelled, texts[start + row], pair, mask_id)
                yield read if some[row] == texts[start + row] else read._replace(cut=True)


def alone(tokenizer: Any, text: str) -> Any:
    """A text's Encoding without special tokens, whole."""
    return tokenizer([text], add_special_tokens=False, verbose=False).encodings[0]


def limit(task: Task, max_length: int) -> tuple[str, int]:
    """What a task's texts are, and how many tokens of one are read.

    Of a question at most QUESTION and no more than leave half of the room for a context (Devlin et al.'s code for SQuAD
    cuts them alike).
    """
    if task.first_cut == "only_second":
        return "questions", max(1, min(QUESTION, max_length // 2 - 3))
    return "texts", max_length


def shortened(questions: Sequence[str], most: int, spell: Callable[[str], Any]) -> list[str]:
    """Of each question at most so many tokens.  spell: a text's Encoding without special tokens."""
    found = []
    for text in questions:
        offsets = spell(text).offsets if len(text) > most else []  # a token is a character at least
        found.append(text[: offsets[most - 1][1]] if len(offsets) > most else text)
    return found


@dataclass(frozen=True)
class Nothing:
    """A text of which a tokenizer makes nothing at all: no model reads nothing, so it is one token of padding."""

    pad_id: int
    overflowing: tuple[Any, ...] = ()

    @property
    def ids(self) -> list[int]:
        """The padding."""
        return [self.pad_id]

    type_ids: tuple[int, ...] = (0,)
    offsets: tuple[tuple[int, int], ...] = ((0, 0),)
    sequence_ids: tuple[None, ...] = (None,)
    special_tokens_mask: tuple[int, ...] = (1,)


def answers(
    task: Task,
    reads: Sequence[Read],
    parts: Iterable[Any],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    decode: Decode | None,
) -> list[Any]:
    """The answers to texts of what a model said of each of their readings; parts: of all readings, in order."""
    rest, found = iter(parts), []
    for i, one in enumerate(reads):
        its = [next(rest) for _ in range(1 + len(one.more))]
        found.append(task.join(its, one, texts[i], None if pairs is None else pairs[i], decode))
    return found


def both(first: Read, second: Read) -> Read:
    """The readings of a text and of its pair, where a task reads them apart."""
    return first._replace(more=(second,), cut=first.cut or second.cut)


def max_length(tokenizer: Any, config: Any, cap: int | None = 128) -> int:
    """How many tokens of a text are read: what tokenizer and model can take, at most cap (None: all they can take).

    RoBERTa and its kin number positions from pad_token_id + 1 on: of 514 position embeddings, 512 serve.
    """
    positions = entry(config, "max_position_embeddings") or entry(config, "n_positions") or 0
    kin = {entry(config, "model_type"), *(getattr(c, "model_type", None) for c in type(config).__mro__)}
    if kin & OFFSET_FAMILIES and positions > 0:
        pad = 1 if "mpnet" in kin else entry(config, "pad_token_id")  # mpnet's is written into its code
        positions -= (1 if pad is None else pad) + 1
    limits = [limit for limit in (tokenizer.model_max_length, positions, cap) if limit and limit > 0]
    return int(min(limits))  # where nothing limits, transformers' "very large" model_max_length stays


def entry(config: Any, key: str) -> Any:
    """One entry of a transformers config, or of the contents of a config.json; None where it is not."""
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Bounds of runs of texts that stay within AT_ONCE; a text that is longer alone goes alone."""
    start = size = 0
    for stop, text in enumerate(texts):
        if stop > start and (stop - start == AT_ONCE[0] or size + len(text) > AT_ONCE[1]):
            yield start, stop
            start, size = stop, 0
        size += len(text)
    if texts:
        yield start, len(texts)


@contextmanager
def as_it_was(tokenizer: Any) -> Iterator[None]:
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
