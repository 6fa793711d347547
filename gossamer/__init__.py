"""gossamer makes pretrained language models smaller and faster: measured, and reloaded with plain `from_pretrained`.

The public names are imported when they are first used.  The one thing that `import gossamer` itself does is to make
transformers know gossamer's artefacts, as soon as transformers is there.
"""

import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Job": "train", "Train": "train", "also": "train", "compress": "pipeline", "then": "train",
    "parse": "recipe", "read": "data", "save": "artefact",
    "load": "engines", "predict": "engines", "measure": "measure", "methods": "recipe", "demo": "embedded",
    "env": "environment", "check": "promise", "Promise": "promise",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"gossamer.{_PUBLIC[name]}"), name)
    if name[:1].isupper():
        found = importlib.import_module("gossamer.recipe").methods()
        if name in found:
            return found[name]
    raise AttributeError(f"module 'gossamer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_PUBLIC))


class _AtTransformers:
    """Registers gossamer's artefacts when transformers' Auto classes are first imported, and goes away."""

    awaited = "transformers.models.auto.modeling_auto"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.awaited:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def then_register(module: ModuleType) -> None:
                load(module)
                sys.modules[fullname] = module
                importlib.import_module("gossamer.runtime.revive")  # registers

            spec.loader.exec_module = then_register  # type: ignore[method-assign]
        return spec


if _AtTransformers.awaited in sys.modules:
    importlib.import_module("gossamer.runtime.revive")
else:
    sys.meta_path.insert(0, _AtTransformers())
