"""Where energy's numbers are read: the places and clocks of this machine."""

import importlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossamer.environment import hardware

from .time import Clock

CLOCK = Clock()


def _pynvml() -> Any:
    return importlib.import_module("pynvml")


@dataclass(frozen=True)
class Sensors:
    """Where the numbers are read, and what the user knows better; a test brings its own.

    powercap: the folder of the RAPL zones.  dram: count the memory's zones as well.  gpu: count GPUs.  visible: which,
    as CUDA_VISIBLE_DEVICES says it; None for all.  nvml: gives the module pynvml, or raises ImportError.  machine: a
    mapping with "cpu" (its model name) and "accelerators" (their names).  tdp_watts, threads: for the estimate, instead
    of the table's; the TDP of all that `threads` share.  ram_watts: of the memory, which is not estimated without.
    """

    powercap: Path = Path("/sys/class/powercap")
    dram: bool = False
    gpu: bool = True
    visible: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    nvml: Callable[[], Any] = _pynvml
    machine: Callable[[], Mapping[str, Any]] = hardware
    tdp_watts: float | None = None
    threads: int | None = None
    ram_watts: float | None = None
    clock: Clock = CLOCK
    sleep: Callable[[float], object] = time.sleep
