"""How an artefact reads texts: what its json files say, and its tokenizer.  Neither torch nor transformers."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer

from gossamer import task
from gossamer.task import Read
from gossamer.task.reading import Nothing, both, limit, shortened

CHARACTERS = 1_000_000  # given to the tokenizer in one call: its notes on a text are many times the text's size
NO_LIMIT = 1_000_000  # tokenizers that know no limit write a very large number down


Reader = Callable[[Sequence[str], Sequence[str] | None], list[Read]]


@dataclass(frozen=True)
class Facts:
    """What must be known of a model in order to ask it.

    typed: does it tell first and second texts apart (token_type_ids)?  mask_id: the token that hides a word.
    vocabulary: how wide the answers of a language model are.  first_position: what the first position is called.
    threshold: at which texts leave with an exit's answer, None where there is none.
    """

    task: task.Task
    max_length: int
    pad_id: int
    typed: bool
    side: str = "right"  # the end from which a long text is cut
    mask_id: int | None = None
    first_position: int = 0
    vocabulary: int = 0
    threshold: float | None = None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes, None where answers are something else."""
        found: tuple[str, ...] | None = getattr(self.task, "labels", None)
        return found


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


def facts(folder: Path, threshold: float | None = None) -> Facts:
    """What config.json and tokenizer_config.json of a folder say.  threshold: of its exits, in place of their own.

    Raises:
        ValueError: they are damaged, the model gives several labels to a text, or a threshold is for exits that it has
            not.
    """
    config, told = contents(folder / "config.json"), contents(folder / "tokenizer_config.json")
    config |= {"model_type": config.get("base_model_type", config.get("model_type"))}
    posed = task.of_model(config)
    limit = SimpleNamespace(model_max_length=told.get("model_max_length"))
    try:
        longest = task.max_length(limit, config, cap=None)
    except ValueError:  # nothing limits
        longest = NO_LIMIT
    hides = isinstance(posed, task.MaskedLM)
    return Facts(
        task=posed,
        max_length=min(longest, NO_LIMIT),
        pad_id=_pad_id(folder, config, told),
        typed=(config.get("type_vocab_size") or 0) > 1 and _types(told),
        side=told.get("truncation_side") or "right",
        mask_id=_token(folder, told, "mask_token") if hides else None,
        first_position=_first_position(config),
        vocabulary=int(config.get("vocab_size") or 0) if posed.wide else 0,
        threshold=_threshold(folder, config.get("gossamer"), threshold),
    )


def _threshold(folder: Path, changes: Any, wanted: float | None) -> float | None:
    """That of the exits, if the model has some; the one that is wanted, if any is."""
    told = changes.values() if isinstance(changes, dict) else ()
    walks = (walk for one in told if isinstance(one, dict) for walk in one.get("walks", ()))
    own = next((float(walk["threshold"]) for walk in walks if walk.get("is") == "Exits"), None)
    if own is None and wanted is not None:
        raise ValueError(f"threshold={wanted:g} is for exits, and '{folder}' has none; leave it out")
    return own if wanted is None else float(wanted)


def _first_position(config: dict[str, Any]) -> int:
    if config.get("model_type") not in task.OFFSET_FAMILIES:
        return 0
    pad = config.get("pad_token_id")
    return (1 if pad is None else int(pad)) + 1


def _types(told: dict[str, Any]) -> bool:
    """Whether transformers would give the model token types: its class for any tokenizer does not, unless told."""
    names = told.get("model_input_names")
    if names is not None:
        return "token_type_ids" in names
    return told.get("tokenizer_class") not in ("TokenizersBackend", "PreTrainedTokenizerFast")


def _pad_id(folder: Path, config: dict[str, Any], told: dict[str, Any]) -> int:
    """The token that fills; models that know none get their last one, as is the custom; 0 where there is neither."""
    if isinstance(config.get("pad_token_id"), int):
        return int(config["pad_token_id"])
    found = _token(folder, told, "pad_token")
    return (_token(folder, told, "eos_token") or 0) if found is None else found


def _token(folder: Path, told: dict[str, Any], kind: str) -> int | None:
    """The id of a special token, None where there is none."""
    token = told.get(kind)
    if not token or not (folder / "tokenizer.json").is_file():
        return None
    found = _tokenizer(folder).token_to_id(token["content"] if isinstance(token, dict) else token)
    return None if found is None else int(found)


def reader(folder: Path, facts: Facts, alone: bool = False) -> Reader:
    """The folder's tokenizer.json at work; alone: on one thread, instead of on all.

    Raises:
        ValueError: the folder has none, or it is damaged.
    """
    tokenizer = _tokenizer(folder)
    tokenizer.no_padding()
    noted = not isinstance(facts.task, (task.Classification, task.Regression))  # where tokens stand costs some time
    whole = _tokenizer(folder) if facts.task.first_cut == "only_second" else tokenizer  # each takes a while to read
    whole.no_truncation()
    posed, stride = facts.task, min(facts.task.stride, max(0, facts.max_length // 4))
    _, most = limit(posed, facts.max_length)
    tokenizer.enable_truncation(facts.max_length, stride=stride, strategy=posed.first_cut, direction=facts.side)

    def read(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Read]:
        if posed.apart and pairs is not None:
            return [both(one, two) for one, two in zip(read(texts, None), read(pairs, None), strict=True)]
        if posed.stride and pairs is None:
            raise ValueError(f"{posed.kind} reads a text and its pair, found texts alone; give a context to each")
        some = texts
        if posed.first_cut == "only_second":
            some = shortened(texts, most, lambda text: whole.encode(text, add_special_tokens=False))
        given = list(some) if pairs is None else list(zip(some, pairs, strict=True))
        found = list[Read]()
        for start, stop in _runs(given):  # what the tokenizer notes of one run is gone before the next
            found += [
                _read(one, facts, texts[i], None if pairs is None else pairs[i])
                for i, one in enumerate(spelled(given[start:stop]), start)
            ]
        return [one if some[i] == texts[i] else one._replace(cut=True) for i, one in enumerate(found)]

    def spelled(some: Sequence[Any]) -> Iterable[Any]:
        if alone or len(some) == 1:
            return (tokenizer.encode(*((one,) if isinstance(one, str) else one)) for one in some)
        several: list[Any] = tokenizer.encode_batch(some) if noted else tokenizer.encode_batch_fast(some)
        return several

    return read


def decoder(folder: Path) -> Callable[[list[int]], str]:
    """From token ids to a text, without special tokens.  ValueError: the folder has no tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        _tokenizer(folder)  # says so
    found = cache(lambda: _tokenizer(folder))  # few tasks have something to decode
    return lambda ids: str(found().decode(ids, skip_special_tokens=True))


def _read(one: Any, facts: Facts, text: str, pair: str | None) -> Read:
    if one.ids:
        return facts.task.read(one, text, pair, facts.mask_id)
    return facts.task.read(Nothing(facts.pad_id), text, pair, facts.mask_id)


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
