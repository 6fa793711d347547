"""How an artefact reads texts: what its json files say, and its tokenizer.  Neither torch nor transformers."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from gossamer import task

CHARACTERS = 1_000_000  # given to the tokenizer in one call: its notes on a text are many times the text's size
NO_LIMIT = 1_000_000  # tokenizers that know no limit write a very large number down


class Read(NamedTuple):
    """A text, or a pair, as token ids and token types; cut: whether its end had to go."""

    ids: list[int]
    types: list[int]
    cut: bool


Reader = Callable[[Sequence[str], Sequence[str] | None], list[Read]]


@dataclass(frozen=True)
class Facts:
    """What must be known of a classifier in order to ask it.

    labels: None for a regression.  typed: does it tell first and second texts apart (token_type_ids)?
    """

    labels: tuple[str, ...] | None
    max_length: int
    pad_id: int
    typed: bool
    side: str = "right"  # the end from which a long text is cut

    @property
    def classes(self) -> int:
        """The width of the logits."""
        return 1 if self.labels is None else len(self.labels)


def contents(file: Path) -> dict[str, Any]:
    """A json file as a dictionary, {} where there is none.

    Raises:
        ValueError: it is not json, or not a dictionary.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); copy the artefact again from its source") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged (found {type(found).__name__}, expected a dictionary); copy it again")
    return found


def facts(folder: Path) -> Facts:
    """What config.json and tokenizer_config.json of a folder say.

    Raises:
        ValueError: they are damaged, or the model gives several labels to a text.
    """
    config, told = contents(folder / "config.json"), contents(folder / "tokenizer_config.json")
    config |= {"model_type": config.get("base_model_type", config.get("model_type"))}
    posed = task.of_model(config)
    limit = SimpleNamespace(model_max_length=told.get("model_max_length"))
    try:
        longest = task.max_length(limit, config, cap=None)
    except ValueError:  # nothing limits
        longest = NO_LIMIT
    return Facts(
        labels=posed.labels if isinstance(posed, task.Classification) else None,
        max_length=min(longest, NO_LIMIT),
        pad_id=_pad_id(folder, config, told),
        typed=(config.get("type_vocab_size") or 0) > 1,
        side=told.get("truncation_side") or "right",
    )


def _pad_id(folder: Path, config: dict[str, Any], told: dict[str, Any]) -> int:
    """The token that fills; models that know none get their last one, as is the custom; 0 where there is neither."""
    if isinstance(config.get("pad_token_id"), int):
        return int(config["pad_token_id"])
    if not (folder / "tokenizer.json").is_file():
        return 0
    tokenizer = _tokenizer(folder)
    for kind in ("pad_token", "eos_token"):
        token = told.get(kind)
        found = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None
        if found is not None:
            return int(found)
    return 0


def reader(folder: Path, facts: Facts, alone: bool = False) -> Reader:
    """The folder's tokenizer.json at work; alone: on one thread, instead of on all.

    Raises:
        ValueError: the folder has none, or it is damaged.
    """
    tokenizer = _tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(facts.max_length, direction=facts.side)

    def read(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Read]:
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = []
        for start, stop in _runs(given):
            some: Any = given[start:stop]
            if alone or stop - start == 1:
                found += [tokenizer.encode(*([one] if pairs is None else one)) for one in some]
            else:
                found += tokenizer.encode_batch_fast(some)
        return [_read(one, facts) for one in found]

    return read


def _read(one: Any, facts: Facts) -> Read:
    ids: list[int] = one.ids
    cut = len(ids) == facts.max_length and bool(one.overflowing)
    return Read(ids, one.type_ids, cut) if ids else Read([facts.pad_id], [0], False)  # no model reads nothing at all


def _tokenizer(folder: Path) -> Any:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"'{folder}' has no tokenizer.json, which running without transformers needs")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # its own class of exception is Exception
        raise ValueError(f"{file} is damaged ({error}); copy the artefact again from its source") from error


def _runs(given: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Bounds of runs that stay within CHARACTERS; a text that is longer alone goes alone."""
    start = size = 0
    for stop, one in enumerate(given):
        more = len(one) if isinstance(one, str) else sum(map(len, one))
        if stop > start and size + more > CHARACTERS:
            yield start, stop
            start, size = stop, 0
        size += more
    if given:
        yield start, len(given)
