"""Images of batches on their way to a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignite_imgtools import data
from ignite_imgtools.data import device_batches


class _Images(Dataset[Any]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        return torch.full((3, 4, 5), index, dtype=torch.uint8), {"labels": torch.tensor([index]), "image_id": index}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_are_moved_and_targets_stay(num_workers: int) -> None:
    # The meta device is one that this machine has, and is not its own.
    for images, targets in data.create_loader(_Images(), 2, num_workers=num_workers, device="meta"):
        assert [(image.device.type, tuple(image.shape)) for image in images] == [("meta", (3, 4, 5))] * 2
        assert [target["labels"].device.type for target in targets] == ["cpu"] * 2


def test_batches_of_another_form_are_moved_whole() -> None:
    mover = device_batches.BatchMover(torch.device("meta"))
    moved = mover({"image": torch.ones(2), "more": [torch.ones(3), "a name"]})
    assert moved["image"].is_meta
    assert moved["more"][0].is_meta
    assert moved["more"][1] == "a name"


class _FakeStream:
    """Writes down what is asked of it, in the order in which it is asked."""

    def __init__(self, name: str, told: list[str]):
        self.name, self.told = name, told

    def __enter__(self) -> None:
        self.told.append(f"on {self.name}")

    def __exit__(self, *error: object) -> None:
        self.told.append(f"off {self.name}")

    def wait_stream(self, other: _FakeStream) -> None:
        self.told.append(f"{self.name} waits for {other.name}")


def test_the_order_of_copies_and_waits_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: _FakeStream("copies", told))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: _FakeStream("step", told))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(Tensor, "to", lambda self, device, non_blocking: told.append(f"copy {non_blocking}") or self)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: told.append(f"kept for {stream.name}"))
    mover = device_batches.BatchMover(torch.device("cuda"))
    for _ in range(2):
        told.clear()
        mover(([torch.ones(1), torch.ones(1)], [{}]))
        one = ["copy True", "kept for step"]
        assert told == ["on copies", *one, *one, "off copies", "step waits for copies"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_arrive_on_a_gpu_as_they_were() -> None:
    loader = data.create_loader(_Images(), 2, num_workers=1, device="cuda")
    seen = [int(image[0, 0, 0]) for images, _ in loader for image in images]
    assert seen == list(range(6))
