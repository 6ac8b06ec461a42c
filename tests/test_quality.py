"""Lint, format, types and import rules, so that one command checks everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=lambda command: " ".join(command[:2]),
)
def test_check_passes(command: list[str]) -> None:
    done = subprocess.run([_BIN / command[0], *command[1:]], cwd=_ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_recipe_or_user_code_asks_for_its_rank() -> None:
    files = [*(_ROOT / "ignite_imgtools" / "recipes").glob("*.py"), _ROOT / "README.md"]
    assert not [file for file in files if "get_rank" in file.read_text() or "is_main_process" in file.read_text()]


def test_nothing_is_unpickled() -> None:
    banned = ("weights_only=False", "pickle.load", "allow_pickle=True", "yaml.load(", "torch.jit.load")
    found = [
        f"{file.name}: {word}"
        for file in (_ROOT / "ignite_imgtools").rglob("*.py")
        for word in banned
        if word in file.read_text()
    ]
    assert not found
