"""What is remembered of engines, in the user's cache: a small json file for each artefact.

{"choices": {key: entry}}, where a key says in words on what the entry depends (`key_of`).  A cache that cannot be read
or written is no error: it remembers nothing.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import log2
from pathlib import Path
from threading import get_ident
from typing import Any

from gossamer.engines.graphs import carried
from gossamer.environment import hardware, installed
from gossamer.runtime.manifest import MANIFEST, digest

KEPT = 50  # entries of one artefact

logger = logging.getLogger(__name__)


def place() -> Path:
    """The folder that remembers: $GOSSAMER_CACHE, or the operating system's for such things.

    Raises:
        RuntimeError: nobody knows where the user's home is.
    """
    if own := os.environ.get("GOSSAMER_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "gossamer"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gossamer"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "gossamer"
    return Path.home() / ".cache" / "gossamer"


def recall(folder: Path) -> dict[str, dict[str, Any]]:
    """What is remembered of an artefact, by key; {} where nothing is, or where it cannot be read."""
    try:
        choices = json.loads(_file(folder).read_text(encoding="utf-8"))["choices"]
        return {str(key): one for key, one in choices.items() if isinstance(one, dict)}
    except FileNotFoundError:
        return {}
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.debug("what was remembered of the engines cannot be read (%s)", error)
        return {}


def remember(folder: Path, more: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to what is remembered of an artefact, the oldest goes; where that cannot be written it is not."""
    try:
        file = _file(folder)
        older = {key: one for key, one in recall(folder).items() if key not in more}
        choices = dict([*older.items(), *more.items()][-KEPT:])
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}.{get_ident()}.part")
        try:
            part.write_text(json.dumps({"artefact": str(folder.resolve()), "choices": choices}, indent=1), "utf-8")
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        logger.debug("which engine is fastest cannot be remembered (%s)", error)


def _file(folder: Path) -> Path:
    """Artefacts of the same content share a file; so do plain folders with the same graphs."""
    sealed = folder / MANIFEST
    files = [sealed] if sealed.is_file() else [folder / "config.json", *carried(folder)]
    return place() / "engines" / f"{sha256(' '.join(map(digest, files)).encode()).hexdigest()[:32]}.json"


def key_of(
    engines: Sequence[str], threads: int | None, lengths: Sequence[int] | None = None, batch_size: int | None = None
) -> str:
    """All that an answer depends on beside the artefact, in words; sizes and lengths by the nearest power of two."""
    here = hardware()
    versions = [f"{name} {installed(name) or 'absent'}" for name in engines]
    sizes = "1, 32" if batch_size is None else _about(batch_size)
    tokens = "usual" if not lengths else f"{_about(sum(lengths) / len(lengths))} to {_about(max(lengths))}"
    words = [here["cpu"], " ".join(here["instructions"]), f"{here['cores']} cores"]
    words += [f"{threads or here['cores']} threads", *versions, f"batches of {sizes}", f"{tokens} tokens"]
    return "; ".join(words)


def _about(number: float) -> str:
    return str(2 ** max(0, round(log2(max(number, 1)))))
