"""Names in the pages of docs/ exist, their links lead somewhere, and Sphinx builds them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

_DOCS = Path(__file__).resolve().parents[1] / "docs"
_PAGES = sorted(_DOCS.rglob("*.md"))
_PACKAGES = "data|engines|handlers|metrics|models|losses|distributed"


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_names_of_a_page_exist(page: Path) -> None:
    found = set(re.findall(rf"`(?:[^`]*[ (])?({_PACKAGES})\.(?!json|yaml|txt)(\w+)", page.read_text()))
    missing = [f"{p}.{name}" for p, name in found if not hasattr(importlib.import_module(f"ignite_imgtools.{p}"), name)]
    assert not missing


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_reference_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*build, str(_DOCS), str(tmp_path / "html")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "create_loader" in (tmp_path / "html" / "reference" / "data.html").read_text()
