"""A compressed model on disk: an ordinary folder of transformers that tells the truth or refuses.

Written beside its place and renamed, so that it appears whole or not at all; read back in a fresh process and compared
with what the model answered before, so that a folder that is there has been seen to work.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gossamer.anatomy import blocks, shape, towers
from gossamer.job import room
from gossamer.runtime.changes import changes
from gossamer.runtime.manifest import check, seal
from gossamer.runtime.revive import whole, write
from gossamer.runtime.walks import stack_of

PROBE = "probe.safetensors"
WIDEST = 1024  # columns of an answer that are kept
TOLERANCE = 1e-4  # between the answers before and after, relative to the largest


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place once all is written; after an error nothing is left of it.

    Raises:
        ValueError: the place is taken.
        OSError: the disk is full.
    """
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        raise ValueError(f"{folder} exists and is not empty; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # by a run that was killed
        if not _alive(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with room(folder):
            yield part
            if folder.is_dir():
                folder.rmdir()
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fit(model: nn.Module) -> None:
    """Let the config say as much of the model's shape as it can: a plain architecture then holds what it can hold."""
    config: Any = model.config
    if stack_of(model) is not None or len(towers(model)) > 1:
        return
    before, found = config.to_dict(), blocks(model)
    wide = {shape(up)[1] if (up := b.part("up")) is not None and hasattr(up, "out_features") else 0 for b in found}
    wanted = {"num_hidden_layers": len(found), "intermediate_size": wide.pop() if len(wide) == 1 else 0}
    names = {getattr(config, "attribute_map", {}).get(k, k): v for k, v in wanted.items()}
    names |= {"hidden_dim": wanted["intermediate_size"]} if config.model_type == "distilbert" else {}
    fewer = len(changes(model))
    for name, value in names.items():
        if value and isinstance(before.get(name), int) and before[name] != value:
            setattr(config, name, value)
            try:
                now = len(changes(model))
            except (ValueError, RuntimeError, TypeError):
                now = fewer + 1
            if now > fewer:
                setattr(config, name, before[name])
            fewer = min(fewer, now)


@torch.no_grad()
def save(
    model: Any,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    probe: Mapping[str, Tensor] | None = None,
    also: Callable[[Path], None] | None = None,
    verify: bool = True,
) -> Path:
    """Write an artefact.

    probe: a batch (input_ids (B, T), attention_mask, ...) on which the answers before and after are compared; by
    default a few made-up inputs of several lengths.  also: writes what else belongs into the folder, before it is
    sealed.  verify: read it back in a fresh process.

    Raises:
        ValueError: the folder is taken.  RuntimeError: the model that was read back answers otherwise.
        OSError: the disk is full.
    """
    folder = Path(folder)
    model = model.cpu().eval()
    fit(model)
    inputs = {k: v.cpu() for k, v in (probe or made_up(model)).items() if k not in ("labels", "index")}
    with appearing(folder) as part:
        write(model, part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        logits = answer(model, inputs)
        save_file({**{k: v.contiguous() for k, v in inputs.items()}, "logits": logits.contiguous()}, part / PROBE)
        if also is not None:
            also(part)
        seal(part)
        if verify:
            in_fresh_process(part)
    return folder


@torch.no_grad()
def answer(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the model says of its probe, of a wide vocabulary some columns, evenly spread."""
    out = model(**inputs)
    ends = [out[name] for name in ("start_logits", "end_logits") if name in out]
    said: Tensor = torch.stack(ends, -1) if ends else out["logits"] if "logits" in out else out[0]
    return said[..., :: max(1, said.shape[-1] // WIDEST)].float()


def made_up(model: Any) -> dict[str, Tensor]:
    """Inputs of lengths 1 to 16, padded; the same every time."""
    chance = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 3, 8, 16])
    ids = torch.randint(0, int(model.config.vocab_size), (4, 16), generator=chance)
    mask = torch.arange(16) < lengths[:, None]
    pad = getattr(model.config, "pad_token_id", None)
    if pad is not None:
        ids = ids.masked_fill(ids.eq(pad), int(pad) + 1)
    ids = ids.masked_fill(~mask, int(pad or 0))
    return {"input_ids": ids, "attention_mask": mask.long()}


def in_fresh_process(folder: Path) -> None:
    """Load the artefact by plain from_pretrained in a new Python, and compare its answers to the probe.

    Raises:
        RuntimeError: they differ, or it does not load.
    """
    command = [sys.executable, "-c", "import gossamer.artefact as a, sys; a.compare(sys.argv[1])", str(folder)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the artefact does not answer as the model did when read back in a fresh process: {last}")


@torch.no_grad()
def compare(folder: str | Path) -> float:
    """The largest difference between an artefact's answers to its probe and those written down.

    Raises:
        ValueError: it is larger than the tolerance.
    """
    kept = load_file(Path(folder) / PROBE)
    expected = kept.pop("logits")
    found = answer(load(folder), kept)
    difference = float((found - expected).abs().max())
    if found.shape != expected.shape or not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ValueError(f"{folder} answers its probe with a difference of {difference:.2g}, more than {TOLERANCE:g}")
    return difference


def load(folder: str | Path) -> Any:
    """The model of an artefact (or of any folder of transformers), ready to answer.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file is damaged or missing, or the format is newer than this version.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected a folder that gossamer compress wrote")
    check(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}); copy it again from its source") from error
    auto = door((config.get("architectures") or [""])[0])
    try:
        model, info = auto.from_pretrained(folder, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are damaged ({error}); copy them again from their source") from error
    whole(folder, info)
    return model.eval()


def door(architecture: str) -> Any:
    """The Auto class for an architecture: BertForMaskedLM -> AutoModelForMaskedLM."""
    names = {"LMHeadModel": "ForCausalLM", "ForConditionalGeneration": "ForSeq2SeqLM", "MTModel": "ForSeq2SeqLM"}
    tasks = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM", "CausalLM", "Seq2SeqLM")
    endings = {f"For{task}": f"For{task}" for task in tasks} | names
    found = next((kind for ending, kind in endings.items() if architecture.endswith(ending)), "")
    return getattr(transformers, f"AutoModel{found}")


def plain_copy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model that nothing has been done to, as transformers does, whole or not at all."""
    with appearing(folder) as part:
        deepcopy(model).cpu().save_pretrained(part)
        tokenizer.save_pretrained(part)
