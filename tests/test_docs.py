"""Names in the pages of docs/ exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

_PAGES = sorted((Path(__file__).resolve().parents[1] / "docs").glob("*.md"))
_PACKAGES = "data|engines|handlers|metrics|models|losses|distributed"


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_names_of_a_page_exist(page: Path) -> None:
    found = set(re.findall(rf"`[^`]*?\b({_PACKAGES})\.(?!jsonl)(\w+)", page.read_text()))
    assert found
    missing = [f"{p}.{name}" for p, name in found if not hasattr(importlib.import_module(f"ignite_imgtools.{p}"), name)]
    assert not missing


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)", page.read_text()):
        assert (page.parent / target).exists(), target
