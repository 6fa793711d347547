"""The energy counters that machines have: RAPL in the processor, NVML's in the GPU.

RAPL, as Linux shows it (Documentation/power/powercap/powercap.rst): one zone to a domain, in microjoules, starting
again at zero after max_energy_range_uj.  Core and uncore lie inside their package, and psys around all packages, so
only packages are added up; the MMIO zone of a package is a second view of the same one.  On laptops and servers since
2020 the counters can be read by root only; in most virtual machines and containers there are none.

NVML (nvmlDeviceGetTotalEnergyConsumption): millijoules of the whole board, whoever uses it, on Volta and later.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
OFTEN = 1.0  # seconds between two looks at a counter, so that none comes round twice unseen
MOST = 500.0  # watts of a big package: a round that would take more was none; time enough to fill a counter is noted
SLACK = 1.0  # seconds by which a reading may be older than it looks
STILL = 1.0  # seconds after which a counter that has not moved is not counting


@dataclass(frozen=True)
class Counter:
    """Something that counts joules.

    source: what is counted.  tier: by what.  read: the joules so far; raises what it will when it cannot.  full: the
    joules at which it starts again at zero, None where it does not.  limit: the most watts it may draw, where known.
    scope: whose energy it is.
    """

    source: str
    tier: str
    read: Callable[[], float]
    full: float | None = None
    limit: float | None = None
    scope: str = ""


def since(before: float, now: float, full: float | None, gap: float | None = None) -> float:
    """Joules between two readings, with at most one start from zero in between.

    gap: seconds between them, where they are known.
    Raises ValueError when the counter went back and cannot have come round, or only at more than MOST watts: it was
    reset.
    """
    passed = now - before
    if passed < 0 and full is not None:
        passed += full
        if gap is not None and passed > MOST * (gap + SLACK):
            raise ValueError(
                f"the counter went back from {before:.6g} J to {now:.6g} J in {gap:.3g} s: a whole round would be "
                f"{passed:.6g} J, more than {MOST:g} W gives, so it was reset"
            )
    if passed < 0:
        raise ValueError(f"the counter went back from {before:.6g} J to {now:.6g} J")
    return passed


class Tally:
    """What counters have counted since it was made.

    joules, lost and rounds: for each counter, by its number: the sum, why it cannot be read (None while it can), and
    how often it started again at zero.  gap: the longest time between two readings in seconds.
    """

    def __init__(self, counters: Sequence[Counter], wall: Callable[[], float]) -> None:
        self.counters, self.wall = tuple(counters), wall
        self.joules = [0.0] * len(counters)
        self.lost: list[str | None] = [None] * len(counters)
        self.last: list[float | None] = [None] * len(counters)
        self.rounds = [0] * len(counters)
        self.gap, self.began = 0.0, wall()
        self.looked = self.began
        self.read()

    def glance(self) -> None:
        """Read again if the last time was a while ago."""
        if self.wall() - self.looked >= OFTEN:
            self.read()

    def read(self) -> None:
        """Add what was counted since the last time; one that cannot be read is lost for good."""
        now = self.wall()
        gap = now - self.looked
        self.gap, self.looked = max(self.gap, gap), now
        for i, counter in enumerate(self.counters):
            if self.lost[i] is not None:
                continue
            try:
                value, before = counter.read(), self.last[i]
                self.joules[i] += 0.0 if before is None else since(before, value, counter.full, gap)
                self.rounds[i] += before is not None and value < before
                self.last[i] = value
            except Exception as error:  # drivers raise their own; a report goes on without this counter
                self.lost[i] = f"{reason(error)}, {now - self.began:.3g} s into the run"

    def close(self) -> None:
        """Read for the last time, and give up those that stood still."""
        self.read()
        seconds = self.looked - self.began
        for i, joules in enumerate(self.joules):
            if self.lost[i] is None and joules == 0 and seconds >= STILL:
                self.lost[i] = f"it did not move in {seconds:.3g} s"

    def doubt(self, i: int) -> str:
        """What speaks against the sum of counter i; "" where nothing does."""
        full, times = self.counters[i].full, self.rounds[i]
        often = {0: "", 1: "; it started again at zero once, which is"}.get(
            times, f"; it started again at zero {times} times, each of which is"
        )
        said = f"{often} taken for a full round, though a reset looks the same" if often else ""
        if full is None or self.gap * MOST < full:
            return said
        return f"{said}; it starts again every {full:.6g} J and went {self.gap:.3g} s unread, so some may be missing"


def reason(error: Exception) -> str:
    """An exception in a few words, with what to type where the counter is there but may not be read."""
    if isinstance(error, PermissionError):
        return (
            "permission denied (root may read it; so may all, until the next boot, after "
            "`sudo chmod a+r /sys/class/powercap/*/energy_uj`)"
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def rapl(root: Path, dram: bool = False) -> list[Counter]:
    """One counter for each processor package under `root` (/sys/class/powercap), and with `dram` for its memory.

    [] where there are none; whether they may be read shows when they are.
    """
    zones = {place.name: name for place in _folders(root) if (name := _text(place / "name")) is not None}
    packages: dict[str, str] = {}  # package-0 -> its zone
    for zone in sorted(zones, key=lambda zone: ("mmio" in zone, zone)):  # MSR before its second view
        if PACKAGE.fullmatch(zones[zone]):
            packages.setdefault(zones[zone], zone)
    memory = {f"dram {name}": child for name, zone in packages.items() for child in _inside(zone, zones, "dram")}
    found = {f"cpu {name}": zone for name, zone in packages.items()} | (memory if dram else {})
    return [_zone(source, root / zone) for source, zone in found.items()]


@contextmanager
def gpus(library: Callable[[], Any], visible: str | None) -> Iterator[tuple[list[Counter], str]]:
    """A counter for each GPU that may be used, and why there is none ("" where none is wanted or there).

    library: gives the module pynvml, or raises ImportError.  visible: CUDA_VISIBLE_DEVICES; None for all.
    """
    wanted = None if visible is None else [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    if wanted == []:
        yield [], ""
        return
    try:
        nvml = library()
    except ImportError:
        yield [], "pynvml is not installed (pip install nvidia-ml-py)"
        return
    try:
        nvml.nvmlInit()
    except Exception as error:  # pynvml's own: no driver, no library
        yield [], f"NVML does not start: {reason(error)}"
        return
    try:
        try:
            found = [_gpu(nvml, i) for i in range(nvml.nvmlDeviceGetCount()) if _chosen(nvml, i, wanted)]
            missing = "" if found or wanted is None else f"CUDA_VISIBLE_DEVICES={visible} names no GPU of NVML"
        except Exception as error:
            found, missing = [], f"NVML does not list the GPUs: {reason(error)}"
        yield found, missing
    finally:
        with suppress(Exception):  # nothing is left to read
            nvml.nvmlShutdown()


def _chosen(nvml: Any, i: int, wanted: list[str] | None) -> bool:
    """Whether GPU i is among those wanted, by number or by the beginning of its UUID."""
    if wanted is None or str(i) in wanted:
        return True
    names = [one for one in wanted if not one.isdigit()]
    return bool(names) and _word(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i))).startswith(tuple(names))


def _gpu(nvml: Any, i: int) -> Counter:
    handle = nvml.nvmlDeviceGetHandleByIndex(i)
    name = _word(nvml.nvmlDeviceGetName(handle))
    try:
        limit = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
    except Exception:  # some boards have none
        limit = None
    return Counter(
        f"gpu {i} ({name})",
        "nvml",
        lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3,
        limit=limit,
        scope="the whole board, every process on it",
    )


def _zone(source: str, place: Path) -> Counter:
    full = _text(place / "max_energy_range_uj")
    return Counter(
        source,
        "rapl",
        lambda: int((place / "energy_uj").read_text(encoding="ascii")) / 1e6,
        full=int(full) / 1e6 if full is not None and full.isdigit() else None,
        scope="the whole domain, every process on it",
    )


def _inside(zone: str, zones: dict[str, str], name: str) -> list[str]:
    return [other for other in sorted(zones) if other.startswith(f"{zone}:") and zones[other] == name]


def _folders(root: Path) -> list[Path]:
    try:
        return [place for place in root.iterdir() if place.is_dir()]
    except OSError:
        return []


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _word(name: str | bytes) -> str:
    """pynvml gave bytes before version 11.5."""
    return name.decode() if isinstance(name, bytes) else name
