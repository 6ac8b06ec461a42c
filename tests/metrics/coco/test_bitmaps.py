"""Packed masks against plain boolean arrays and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from ignite_imgtools.metrics.coco import bitmaps
from ignite_imgtools.metrics.coco.run_lengths import encode, runs_of

_SIZES = [(24, 32), (33, 17), (5, 200), (64, 64), (1, 1), (7, 480)]


def _masks(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = rng.random((9, *size)) < rng.choice([0.02, 0.3, 0.9], size=(9, 1, 1))
    masks[0] = False
    masks[1] = True
    masks[2] = False
    masks[2, size[0] // 3 : size[0] // 2 + 1, size[1] // 3 : size[1] // 2 + 1] = True
    return masks


@pytest.mark.parametrize("size", _SIZES)
def test_masks_of_any_form_are_packed_alike(size: tuple[int, int]) -> None:
    masks = torch.from_numpy(_masks(size))
    expected = np.packbits(masks.numpy(), axis=-1)
    forms = [
        masks,
        masks[:, None],
        masks.to(torch.uint8) * 255,
        masks.long(),
        torch.where(masks, 0.5001, 0.5),
        torch.where(masks, 0.75, 0.5).double()[:, None],
        torch.where(masks, 0.75, 0.5).half(),
        torch.where(masks, 0.75, 0.5).bfloat16(),
        masks.flip(1).flip(1).transpose(1, 2).contiguous().transpose(1, 2),
    ]
    for form in forms:
        np.testing.assert_array_equal(bitmaps.pack(form).numpy(), expected)
    np.testing.assert_array_equal(bitmaps.unpack(expected, size[1]), masks.numpy())


@pytest.mark.parametrize("size", _SIZES)
def test_a_device_packs_as_the_host(size: tuple[int, int]) -> None:
    masks = torch.from_numpy(_masks(size))
    np.testing.assert_array_equal(bitmaps._pack_device(masks).numpy(), np.packbits(masks.numpy(), axis=-1))


def test_blocks_of_probabilities_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitmaps, "_BLOCK_BYTES", 100)
    masks = _masks((24, 32))
    np.testing.assert_array_equal(bitmaps.pack(torch.from_numpy(masks).float()).numpy(), np.packbits(masks, axis=-1))


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("numpy_1", [False, True])
def test_counts_and_intersections(size: tuple[int, int], numpy_1: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if numpy_1:
        monkeypatch.setattr(bitmaps, "_bit_counts", bitmaps._counted_by_table)
    masks, others = _masks(size), _masks(size, seed=1)
    packed = np.packbits(masks, axis=-1)
    assert bitmaps.pixel_counts(packed).tolist() == masks.sum(axis=(1, 2)).tolist()
    runs = runs_of(encode(others))
    crops = bitmaps.crops_of_runs(runs, np.full(9, size[0]), np.full(9, size[1]))
    assert sorted(crops) == np.flatnonzero(others.any(axis=(1, 2))).tolist()
    rows = np.array([8, 2, 0, 5])
    for number, crop in crops.items():
        expected = (masks[rows] & others[number]).sum(axis=(1, 2))
        assert bitmaps.intersections(packed, rows, crop).tolist() == expected.tolist()


def test_masks_of_images_of_several_sizes() -> None:
    masks = [_masks(size)[4] for size in _SIZES]
    runs = runs_of([encode(mask[None])[0] for mask in masks])
    heights, widths = np.array(_SIZES).T
    for number, crop in bitmaps.crops_of_runs(runs, heights, widths).items():
        packed = np.packbits(masks[number], axis=-1)[None]
        assert bitmaps.intersections(packed, np.array([0]), crop).tolist() == [masks[number].sum()]


def test_overlaps_equal_those_of_pycocotools() -> None:
    masks = _masks((40, 50))
    encoded = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    assert [dict(mask) for mask in encode(masks)] == encoded
    assert encode(masks[:0]) == []
