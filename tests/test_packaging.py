"""The wheel and the source distribution hold what they should, and the wheel runs from another folder."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ignite_imgtools import __version__

_ROOT = Path(__file__).resolve().parents[1]
_FILES = ("setup.py", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution, both built without network."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    shutil.copytree(_ROOT / "ignite_imgtools", source / "ignite_imgtools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_ROOT / "tests" / "commands", source / "tests" / "commands")
    (source / "tests" / "test_nothing.py").touch()
    for name in _FILES:
        shutil.copy(_ROOT / name, source)
    _run("setup.py", "-q", "sdist", "-d", "..", folder=source)
    pip = "-m pip wheel -q --no-deps --no-index --no-build-isolation --disable-pip-version-check -w .. ."
    _run(*pip.split(), folder=source)
    return folder


def _run(*args: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _package() -> set[str]:
    files = (path for path in (_ROOT / "ignite_imgtools").rglob("*") if path.suffix in (".py", ".typed"))
    return {path.relative_to(_ROOT).as_posix() for path in files}


def test_the_wheel_holds_the_package_and_honest_metadata(built: Path) -> None:
    with zipfile.ZipFile(built / f"ignite_imgtools-{__version__}-py3-none-any.whl") as wheel:
        info = f"ignite_imgtools-{__version__}.dist-info"
        names = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        scripts = wheel.read(f"{info}/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(info)} == _package()
    assert "ignite_imgtools/py.typed" in names
    assert f"{info}/licenses/LICENSE" in names
    assert metadata["Version"] == __version__
    assert metadata["License"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.10"
    versions = [c.rpartition(":: ")[2] for c in metadata.get_all("Classifier") if "Python :: 3." in c]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    told = (_ROOT / "CONTRIBUTING.md").read_text().partition("## Versions")[2]
    assert [version for version in versions if version not in told] == []
    assert metadata.get_payload().startswith("# ignite_imgtools")
    assert "ignite-imgtools = ignite_imgtools.cli:run" in scripts
    # What a user gets without asking for an extra is what the package cannot do without.
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {"torch>=2.6", "pytorch-ignite>=0.5.5"} <= set(required)
    assert not [line for line in required if line.startswith(("pytest", "onnx", "av", "ruff", "mlflow"))]


def test_the_source_distribution_holds_no_tests_and_builds(built: Path) -> None:
    with tarfile.open(built / f"ignite_imgtools-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= _package() | set(_FILES)
    assert {name.split("/")[0] for name in names} <= {
        *_FILES,
        "",
        "PKG-INFO",
        "ignite_imgtools",
        "ignite_imgtools.egg-info",
    }


def test_the_wheel_runs_from_another_folder(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built / f"ignite_imgtools-{__version__}-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    where = {"folder": tmp_path / "elsewhere", "PYTHONPATH": str(tmp_path / "site")}
    assert _run("-c", "import ignite_imgtools; print(ignite_imgtools.__file__)", **where).startswith(str(tmp_path))
    assert _run("-m", "ignite_imgtools", "--version", **where) == f"ignite-imgtools {__version__}\n"
    _run(*"-m ignite_imgtools make-data class_folders data --num-train 5 --num-val 5 --image-size 64".split(), **where)
    flags = "--data data --model resnet18 --image-size 32 --max-iterations 1 --batch-size 5 --output-dir run"
    _run("-m", "ignite_imgtools", "train", "classification", *flags.split(), **where)
    assert (tmp_path / "elsewhere" / "run" / "report.html").is_file()
