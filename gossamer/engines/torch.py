"""The artefact as the torch model it is: every method, every walk; on the CPU or on a GPU."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gossamer.engines.predictor import Batch, Predictor
from gossamer.engines.texts import Facts, Reader, decoder, facts, reader
from gossamer.environment import BFLOAT16, halves, hardware
from gossamer.kernels import MANY, quick, wide
from gossamer.runtime.exits import Exits
from gossamer.runtime.modules import processor_multiplies_bytes
from gossamer.runtime.walks import stack_of
from gossamer.task import Read, Task
from gossamer.task.reading import Spelled, both
from gossamer.task.rewriting import GENERATED

NEW_TOKENS = 128  # written at most, where the model's generation config says nothing


def load(
    folder: Path,
    threads: int | None = None,
    *,
    precision: str = "saved",
    compiled: bool = False,
    device: str = "cpu",
    threshold: float | None = None,
) -> Predictor:
    """The artefact in `folder`, answered for by its torch model; answers are float32 whatever the precision.

    precision: "saved", or "bf16": products in bfloat16, what is summed and normalized in float32 (torch.autocast).
    compiled: through torch.compile, for batches of any shape; the first texts wait for the compiler.  device: as torch
    names it.  threshold: of exits, None for the artefact's own.

    Raises:
        ValueError: the folder's files are damaged, there is no such device, it has no such precision, or the model is
            none that can be compiled.
    """
    from gossamer import artefact

    place = _place(device)
    halved = _halved(precision, place)
    model: Any = artefact.load(folder).eval()
    known = facts(folder, threshold)
    for walk in model.modules():
        if isinstance(walk, Exits) and known.threshold is not None:
            walk.threshold = known.threshold
    if compiled:
        _compile(model, known.task)
    _fuse(model)
    if halved:
        _halve(model)
    model.to(place)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = known.pad_id  # the families that look for the last token of a text must know it
    if (folder / "tokenizer.json").is_file():
        read = reader(folder, known, alone=threads == 1)
    else:
        read = slow_reader(folder, known)
    generates = known.task.outputs == (GENERATED,)  # one word at a time
    single = wide(model) and not (compiled or halved or generates)
    turn = Lock()  # walks keep state in the modules they pass, and the number of threads is torch's, not ours

    def run(batch: Batch) -> list[NDArray[Any]]:
        autocast = torch.autocast(place.type, torch.bfloat16, enabled=halved)
        products = quick(place) if single and batch["input_ids"].size >= MANY else nullcontext()
        with turn, products, torch.inference_mode(), _threads(threads), autocast, _compiler(compiled):
            return outputs(model, known.task, batch)

    decode = decoder(folder) if (folder / "tokenizer.json").is_file() else slow_decoder(folder)
    return Predictor("torch", known, read, run, model, decode)


def _place(device: str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # no such name; or nothing behind it, or not in this torch
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"torch {torch.__version__} cannot use device '{device}' ({why}); type device=\"cpu\", "
            "or install a torch for your accelerator and its driver"
        ) from error
    return place


def _halved(precision: str, place: torch.device) -> bool:
    """Whether bfloat16 is asked for.  ValueError: what is asked for would not be faster, or torch has no such thing."""
    if precision == "saved":
        return False
    if place.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f'{torch.cuda.get_device_name(place)} has no bfloat16; type precision="saved"')
    if place.type == "cpu" and not halves():
        raise ValueError(
            f"this processor ({hardware()['cpu']}) has no bfloat16 instructions ({', '.join(BFLOAT16)}), so that bf16 "
            'would only be slower; type precision="saved"'
        )
    return True


def _halve(model: nn.Module) -> None:
    """Have the linear layers' weights in bfloat16 once, where autocast would convert them anew in every call."""
    for module in model.modules():
        if type(module) is nn.Linear:
            for name, kept in list(module._parameters.items()):
                if kept is not None:  # a new one: embeddings may share the old, and stay exact
                    setattr(module, name, nn.Parameter(kept.detach().bfloat16(), requires_grad=False))


def _fuse(model: Any) -> None:
    """Attention as one kernel, where the family has code for it; ours, which walks listen to, is that already."""
    if model.config._attn_implementation == "eager":
        with suppress(ValueError, ImportError):  # DeBERTa's attention, for one, is not that of the kernel
            model.set_attn_implementation("sdpa")


def _compile(model: nn.Module, task: Task) -> None:
    """Have torch compile a model, in place, when it is first called."""
    stack = stack_of(model)
    dynamic = [type(walk).__name__ for walk in (stack.walking if stack is not None else []) if walk.dynamic]
    if dynamic:
        raise ValueError(
            f"the way of a text through this model depends on the text ({', '.join(dynamic)}), which torch.compile "
            "cannot follow; type compiled=False"
        )
    if task.outputs == (GENERATED,):
        raise ValueError(f"a model for {task.kind} writes word by word, which is not compiled; type compiled=False")
    # unknown to the compiler, this answer would tear every layer of integers apart; that it is cached is no news
    torch.compiler.assume_constant_result(processor_multiplies_bytes.__wrapped__)
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
    model.compile(dynamic=True)


@contextmanager
def _compiler(compiled: bool) -> Iterator[None]:
    """Say what to do where the compiler fails, which is seen when a model is first called."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        why = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2]) or type(error).__name__
        raise ValueError(f"torch {torch.__version__} cannot compile this model ({why}); type compiled=False") from error


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
