"""What a run was made with: versions, machine, device, commit."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["run_environment"]

_PACKAGES = ("ignite_imgtools", "torch", "torchvision", "pytorch-ignite", "pycocotools", "numpy", "Pillow")


def run_environment(device: str = "auto") -> dict[str, Any]:
    """Versions, machine, device, command line, time and commit, as JSON can hold them.

    Args:
        device: of the configuration; with ``"cpu"`` CUDA is not asked, which would start it.
    """
    found: dict[str, Any] = {"started": datetime.datetime.now().astimezone().isoformat(timespec="seconds")}
    found["command"] = shlex.join(sys.argv)
    found |= _commit()
    found["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["platform"] = platform.platform()
    found["cpus"] = os.cpu_count()
    found["device"] = _device(device)
    return found


def _device(device: str) -> str:
    import torch

    if device.startswith("cpu") or not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    number = torch.cuda.device_count()
    return f"{number} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"


def _commit() -> dict[str, str]:
    """The commit that is checked out where the run was started, with ``-dirty`` after it where files differ."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}
    return {"commit": done.stdout.strip()} if done.stdout.strip() else {}
