from __future__ import annotations

import pytest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder in the place of torch's, where a downloaded file would be; no test downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder
