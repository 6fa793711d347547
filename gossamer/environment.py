"""What this machine is and which versions are on it: for `gossamer env` and for every report.

Nothing here imports a package to learn its version, and nothing that names a user or a host is read.
"""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from gossamer import __version__

PACKAGES = (
    *("torch", "transformers", "accelerate"),
    *("tokenizers", "safetensors", "numpy", "onnxruntime", "openvino", "onnx"),
)
EXTRAS = {  # what to install for a package that is not there
    "torch": "compress",
    "transformers": "compress",
    "accelerate": "compress",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "onnx": "export",
    "onnxscript": "export",
    "pyarrow": "parquet",
    "datasets": "hub",
    "ray": "cluster",
}
OLDEST = {"onnxruntime": "1.24", "openvino": "2026.3"}  # as the extras of pyproject.toml have it
OLD = {
    "onnxruntime": "it lacks operators of our graphs",
    "openvino": "it answers int8 graphs wrongly, or cannot read them",
}
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
INSTRUCTIONS = (  # those that int8 and bf16 kernels live on, as /proc/cpuinfo spells them
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16"),
)


def installed(package: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # a tenth of the start of a process that predicts

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python, the operating system and each of `PACKAGES` that is installed."""
    here = f"{platform.system()} {platform.machine()}"
    found = {"gossamer": __version__, "python": platform.python_version(), "system": here}
    return found | {package: has for package in PACKAGES if (has := installed(package))}


def hardware() -> dict[str, Any]:
    """Processor, its instructions that matter here, cores this process may use, memory in GiB, accelerators."""
    info = _processor()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "instructions": [one for one in INSTRUCTIONS if one in flags],
        "cores": cores(),
        "memory_gib": _memory(),
        "accelerators": _accelerators(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def halves() -> bool:
    """Whether this processor multiplies bfloat16 matrices, as far as can be told: AVX512-BF16, AMX, Arm's."""
    torch = sys.modules.get("torch")  # where it is there, it knows processors without /proc, too
    known = torch.cpu.get_capabilities() if torch is not None else {}
    return any(known.get(one) or one in hardware()["instructions"] for one in BFLOAT16)


def saturates() -> bool:
    """Whether products of unsigned and signed bytes may overflow here: on x86 without VNNI, as far as can be told.

    Two of them are added in sixteen bits there, which is quick and wrong for large ones.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx_vnni", "avx512_vnni"} & set(hardware()["instructions"])


def narrow_mkl() -> bool:
    """Whether MKL leaves AVX-512 unused: on AMD's processors that have it, as far as can be told (and no AMX)."""
    info = _processor()
    flags = info.get("flags", "").split()
    amx = any(flag.startswith("amx") for flag in flags)
    return info.get("vendor_id") == "AuthenticAMD" and "avx512f" in flags and not amx


def env() -> dict[str, Any]:
    """Versions, hardware, the thread settings in force, and which extras are missing: {} where nothing is."""
    missing = {package: install(package) for package in EXTRAS if installed(package) is None}
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    return {"versions": versions(), "hardware": hardware(), "threads": threads, "missing": missing}


def recent(package: str, has: str) -> None:
    """Raise ImportError, with what to type, for a version of a package that is too old to be trusted."""
    if why := dated(package, has):
        raise ImportError(why)


def dated(package: str, has: str | None) -> str:
    """Why a version of a package is too old, and what to type; "" where it is not, or nobody can tell."""
    oldest = OLDEST.get(package, "0.0")
    if has is None or (here := released(has)) == (0, 0) or here >= released(oldest):
        return ""
    return f'{package} {has} is too old: {OLD[package]}; type: pip install "{package}>={oldest}"'


def released(version: str) -> tuple[int, int]:
    """The first two numbers of a version, (0, 0) where nobody can tell."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def install(package: str) -> str:
    """What to type to have `package`."""
    extra = EXTRAS.get(package)
    return f'pip install "gossamer[{extra}]"' if extra else f"pip install {package}"


def _processor() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, {} where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def _accelerators() -> list[str]:
    """Names of the accelerators: from torch where it is imported already, else from the driver's own files."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return [str(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text(errors="replace").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names
