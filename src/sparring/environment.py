"""What a result depends on beside its config: versions, threads, processor. Recorded with every run."""

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparring import __version__
from sparring.process import products, rounds_factors


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The domain in which a run repeats bit for bit."""
    return {
        "sparring": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "products": products(),
        "bf16": "rounded factors" if rounds_factors() else "cast",
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
        "device": _device_name(torch.device(device)),
        "dtype": "float32",
        "copies": 1,
    }


BIT_EXACT = (
    "sparring",
    "torch",
    "threads",
    "cpu_capability",
    "products",
    "bf16",
    "mkl_cbwr",
    "platform",
    "device",
    "copies",
)


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two environments and can change the bits of a result, as "threads 1 -> 2"."""
    older = {"products": "", "bf16": "cast"}  # what records of older versions do not tell
    before = older | before
    return [f"{k} {before.get(k)} -> {now.get(k)}" for k in BIT_EXACT if before.get(k) != now.get(k)]


@cache
def commit() -> str:
    """The commit of the checkout that sparring runs from, with a + where files changed since; the version elsewhere.

    $SPARRING_COMMIT overrides it, for copies of a checkout without its history.
    """
    if given := os.environ.get("SPARRING_COMMIT"):
        return given
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", str(Path(__file__))):
            return git("rev-parse", "--short=12", "HEAD") + (
                "+" if git("status", "--porcelain", "--", str(folder)) else ""
            )
    except (OSError, subprocess.SubprocessError):
        pass
    return f"v{__version__}"


def peak_memory_mb() -> float | None:
    """The largest resident memory of this process so far; None where the platform does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one, else Apple's GPU, else the CPU.

    Raises ValueError for a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this machine or this torch has none; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but this machine has none; use cpu")
    return device


def _device_name(device: torch.device) -> str:
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
