"""The artefact as the torch model it is: every method, every walk."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gossamer.engines.predictor import Batch, Predictor
from gossamer.engines.texts import Facts, Reader, decoder, facts, reader
from gossamer.task import Read, Task
from gossamer.task.reading import Spelled, both
from gossamer.task.rewriting import GENERATED

NEW_TOKENS = 128  # written at most, where the model's generation config says nothing


def load(folder: Path, threads: int | None = None) -> Predictor:
    """The artefact in `folder`, answered for by its torch model, in the precision in which it was saved.

    Raises:
        ValueError: the folder's files are damaged.
    """
    from gossamer import artefact

    model: Any = artefact.load(folder).eval()
    known = facts(folder)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = known.pad_id  # the families that look for the last token of a text must know it
    if (folder / "tokenizer.json").is_file():
        read = reader(folder, known, alone=threads == 1)
    else:
        read = slow_reader(folder, known)
    turn = Lock()  # walks keep state in the modules they pass, and the number of threads is torch's, not ours

    def run(batch: Batch) -> list[NDArray[Any]]:
        with turn, torch.inference_mode(), _threads(threads):
            return outputs(model, known.task, batch)

    decode = decoder(folder) if (folder / "tokenizer.json").is_file() else slow_decoder(folder)
    return Predictor("torch", known, read, run, model, decode)


def outputs(model: Any, task: Task, batch: Batch) -> list[NDArray[Any]]:
    """What the task reads of the model's output; or what the model generates, -1 after its end."""
    given = {key: torch.from_numpy(value).to(model.device) for key, value in batch.items()}
    if task.outputs == (GENERATED,):
        given.pop("token_type_ids", None)
        settings = model.generation_config
        unsaid = settings.max_new_tokens is None and settings.max_length in (None, 20)  # 20 is nobody's choice
        tokens = model.generate(**given, **({"max_new_tokens": NEW_TOKENS} if unsaid else {})).cpu().numpy()
        pad = getattr(settings, "pad_token_id", None)
        return [np.where(tokens == pad, -1, tokens)]
    out = model(**given)
    return [getattr(out, name).float().cpu().numpy() for name in task.outputs]


def slow_reader(folder: Path, facts: Facts) -> Reader:
    """A tokenizer that exists in Python only, through transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def read(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Read]:
        if facts.task.apart and pairs is not None:
            return [both(one, two) for one, two in zip(read(texts, None), read(pairs, None), strict=True)]
        found = []
        for i, text in enumerate(texts):
            pair = None if pairs is None else pairs[i]
            whole = tokenizer(text, pair, verbose=False)["input_ids"]
            one = tokenizer(text, pair, truncation=True, max_length=facts.max_length, return_token_type_ids=True)
            cut = len(whole) > len(one["input_ids"])
            spelled = Spelled(one["input_ids"] or [facts.pad_id], one["token_type_ids"] or [0], cut)
            found.append(facts.task.read(spelled, text, pair, facts.mask_id))
        return found

    return read


def slow_decoder(folder: Path) -> Callable[[list[int]], str]:
    """From token ids to a text by a tokenizer that exists in Python only."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
