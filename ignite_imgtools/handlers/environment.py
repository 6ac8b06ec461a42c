"""What a run was made with: versions, machine, device, commit."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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
    """The commit that is checked out where the run was started; no program is run for it."""
    with contextlib.suppress(OSError, ValueError):
        place = Path.cwd()
        found = [folder / ".git" for folder in (place, *place.parents) if (folder / ".git").is_dir()]
        if not found:
            return {}
        head = (found[0] / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return {"commit": head[:12]}
        name = head.removeprefix("ref: ")
        if (found[0] / name).is_file():
            return {"commit": (found[0] / name).read_text().strip()[:12]}
        for line in (found[0] / "packed-refs").read_text().splitlines():
            if line.endswith(f" {name}"):
                return {"commit": line[:12]}
    return {}
