"""What is public is listed in docs/api.txt, so that a change of it is seen, and has a docstring."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

_FILE = Path(__file__).resolve().parents[1] / "docs" / "api.txt"
_PACKAGES = (
    "data",
    "data.transforms",
    "distributed",
    "engines",
    "formats",
    "handlers",
    "losses",
    "metrics",
    "models",
    "recipes",
)


def _public() -> list[str]:
    names = []
    for package in _PACKAGES:
        module = importlib.import_module(f"ignite_imgtools.{package}")
        names += [f"{package}.{name}" for name in sorted(module.__all__)]
    return names


def test_the_inventory_is_up_to_date() -> None:
    assert _FILE.read_text().splitlines() == _public(), "public names have changed: python -m tests.test_public_api"


@pytest.mark.parametrize("package", _PACKAGES)
def test_everything_public_has_a_docstring(package: str) -> None:
    module = importlib.import_module(f"ignite_imgtools.{package}")
    assert module.__doc__
    things = {name: getattr(module, name) for name in module.__all__}
    calls = {name: thing for name, thing in things.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
    assert calls
    assert [name for name, thing in calls.items() if not inspect.getdoc(thing)] == []
    methods = {
        f"{name}.{key}": method
        for name, thing in calls.items()
        if inspect.isclass(thing) and thing.__module__.startswith("ignite_imgtools")
        for key, method in vars(thing).items()
        if inspect.isfunction(method) and not key.startswith("_")
    }
    assert [
        name
        for name, method in methods.items()
        if not inspect.getdoc(getattr(things[name.split(".")[0]], name.split(".")[1]))
    ] == []


if __name__ == "__main__":
    _FILE.write_text("\n".join(_public()) + "\n")
