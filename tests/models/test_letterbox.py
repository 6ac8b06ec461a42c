"""Boxes stay on their objects, in the batch and back in the image."""

from __future__ import annotations

import pytest
import torch

from ignite_imgtools.data import padded_shapes
from ignite_imgtools.models.letterbox import letterbox


def _box_of(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]


@pytest.mark.parametrize("size", [64, 96, 160])
@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (80, 80), (37, 111)])
def test_boxes_lie_on_their_objects(shape: tuple[int, int], size: int) -> None:
    box = [11, 7, 31, 27]
    image = torch.zeros(3, *shape)
    image[0, box[1] : box[3], box[0] : box[2]] = 1
    other = torch.zeros(3, 90, 90)
    batch, placements = letterbox([image, other], size)
    moved = placements[0].to_batch(torch.tensor([box], dtype=torch.float32))
    # Half of the brightness is the edge between two pixels; the frame around the image is grey, the image black.
    found = _box_of(batch[0, 0] - batch[0, 1] > 0.5)
    assert moved[0].tolist() == pytest.approx(found, abs=0.75)
    back = placements[0].to_image(moved, shape)
    assert back[0].tolist() == pytest.approx(box, abs=1e-4)
    assert placements[0].to_image(torch.tensor([[-900.0, -900, 900, 900]]), shape)[0].tolist() == [0, 0, *shape[::-1]]


def test_the_frame_is_the_smallest() -> None:
    batch, placements = letterbox([torch.zeros(3, 50, 100)], 128)
    assert batch.shape == (1, 3, 64, 128)
    assert placements[0] == (1.28, 1.28, 0, 0)
    batch, placements = letterbox([torch.zeros(3, 50, 100), torch.zeros(3, 100, 50)], 128)
    assert batch.shape == (2, 3, 128, 128)
    assert [place[2:] for place in placements] == [(0, 32), (32, 0)]
    assert batch[0, :, :32].unique().tolist() == pytest.approx([114 / 255])
    assert batch[0, :, 32:96].unique().tolist() == [0]


def test_shapes_are_those_that_images_are_grouped_by() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(20, 300, (40, 2), generator=generator)
    expected = padded_shapes(sizes.numpy(), min_size=96, max_size=96)
    for size, shape in zip(sizes.tolist(), expected.tolist(), strict=True):
        batch, _ = letterbox([torch.zeros(3, *size)], 96)
        assert list(batch.shape[2:]) == shape
