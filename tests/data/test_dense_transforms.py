"""Transforms of images with masks: where each pixel ends up, by loops and by Pillow."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ignite_imgtools.data.transforms import saliency_eval, saliency_train, segmentation_eval, segmentation_train

FILL = (1, 2, 3)


def pair(height: int, width: int, dtype: torch.dtype = torch.int64) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose pixels say where they come from, 10 + column, 10 + row, 0, and a mask that says the same."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack((10 + columns, 10 + rows, torch.zeros_like(rows))).to(torch.uint8)
    mask = (rows * width + columns) % 200
    if dtype != torch.int64:
        mask = (mask % 2)[None]
    return tv_tensors.Image(image), tv_tensors.Mask(mask.to(dtype))


def check_alignment(image: torch.Tensor, mask: torch.Tensor, width: int, ignored: int, modulus: int) -> int:
    """Every pixel is from one place in both, or padding in both; gives the number of pixels that are not padding."""
    image, mask = image.reshape(3, -1).int(), mask.flatten()
    padded = (image == torch.tensor(FILL)[:, None]).all(0)
    expected = ((image[1] - 10) * width + image[0] - 10) % 200 % modulus
    assert (mask[padded] == ignored).all()
    assert (mask[~padded] == expected[~padded]).all()
    return int((~padded).sum())


@pytest.mark.parametrize("size", [(30, 40), (12, 40), (7, 5), (1, 1)])
def test_cut_mirrored_and_padded_alike(size):
    """Images smaller than the crop too, in either direction or both."""
    transform = segmentation_train((min(size), min(size)), (20, 24), hflip=0.5, vflip=0.5, fill=FILL)
    mirrored, corners = set(), set()
    for seed in range(40):
        torch.manual_seed(seed)
        image, mask = transform(*pair(*size))
        assert (image.shape, image.dtype) == ((3, 20, 24), torch.uint8)
        assert (mask.shape, mask.dtype) == ((20, 24), torch.int64)
        kept = check_alignment(image, mask, size[1], 255, 200)
        assert kept == min(size[0], 20) * min(size[1], 24)
        columns, rows = (image[channel][image[1] >= 10].int() for channel in (0, 1))
        mirrored.add((int(columns[0] > columns[-1]), int(rows[0] > rows[-1])))
        corners.add((int(columns.min()), int(rows.min())))
    if min(size) > 1:
        assert len(mirrored) == 4
    if size == (30, 40):
        assert len(corners) > 20


def test_saliency_is_scaled_to_one_shape_then_cut():
    transform = saliency_train((30, 40), (20, 24), fill=FILL)
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = transform(*pair(30, 40, torch.float32))
        assert (image.shape, mask.shape, mask.dtype) == ((3, 20, 24), (1, 20, 24), torch.float32)
        assert check_alignment(image, mask, 40, 0, 2) == 480
    image, mask = saliency_train(8, 288, fill=FILL)(*pair(30, 40, torch.float32))  # smaller than the part to cut
    assert image.shape == (3, 288, 288)
    assert int((image == torch.tensor(FILL)[:, None, None]).all(0).sum()) == 288**2 - 64
    assert mask.sum() <= 64


def test_colours_change_and_masks_and_padding_do_not():
    torch.manual_seed(0)
    image, mask = torch.full((3, 20, 20), 100, dtype=torch.uint8), torch.arange(400).reshape(20, 20) % 5
    transform = segmentation_train((20, 20), (20, 24), hflip=0, jitter=0.5, fill=FILL)
    levels = set()
    for _ in range(20):
        changed, same = transform(image, mask)
        inside = same != 255
        assert torch.equal(same[inside], mask.flatten())
        assert (changed[:, ~inside] == torch.tensor(FILL, dtype=torch.uint8)[:, None]).all()
        levels.add(int(changed[0][inside][0]))
    assert min(levels) < 75
    assert max(levels) > 125


def test_shorter_side_takes_all_lengths():
    transform = segmentation_train((10, 14), 14, hflip=0)
    lengths = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, _ = transform.transforms[0](*pair(30, 47))
        length = min(image.shape[1:])
        assert tuple(image.shape[1:]) == (length, int(length * 47 / 30))
        lengths.add(length)
    assert lengths == set(range(10, 15))


@pytest.mark.parametrize("new", [(16, 24), (12, 64), (62, 96), (30, 40)])
def test_masks_are_scaled_by_the_nearest_pixel(new):
    mask = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    image = torch.zeros(3, 30, 40, dtype=torch.uint8)
    _, scaled = saliency_train(new, new, hflip=0)(image, torch.from_numpy(mask)[None].float())
    by_pillow = np.asarray(Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST))
    assert (scaled[0].numpy() == by_pillow).all()


def test_masks_stay_on_their_images():
    """The middle of a disc is at the same place in the scaled image and in the scaled mask, to a fifth of a pixel."""
    rows, columns = np.mgrid[:240, :320]
    disc = (rows - 101.0) ** 2 + (columns - 143.0) ** 2 < 70**2
    image = torch.from_numpy(disc.astype(np.uint8) * 255).expand(3, -1, -1)
    for size in ((60, 80), (75, 107), (500, 640)):
        scaled, mask = saliency_train(size, size, hflip=0)(image, torch.from_numpy(disc)[None].float())
        for axis in (0, 1):
            places = np.arange(size[axis]) + 0.5
            weights = [part.numpy().astype(float).sum(1 - axis) for part in (scaled[0], mask[0])]
            middles = [(places * weight).sum() / weight.sum() for weight in weights]
            assert abs(middles[0] - middles[1]) < 0.2


def test_a_line_of_pixels_is_not_blown_up_without_bound():
    scale = segmentation_train((50, 100), 48).transforms[0]
    for size in ((2, 60_000), (60_000, 2)):
        image, mask = tv_tensors.Image(torch.zeros(3, *size)), tv_tensors.Mask(torch.zeros(size))
        scaled = [tensor.shape[-2:] for tensor in scale(image, mask)]
        assert scaled[0] == scaled[1]
        assert max(scaled[0]) == 1000
        assert 50 <= min(scaled[0]) <= 100


def test_evaluation_leaves_everything_as_it_is():
    for transform, dtype in ((segmentation_eval(), torch.int64), (saliency_eval(), torch.float32)):
        image, mask = pair(7, 9, dtype)
        out_image, out_mask = transform(image, mask)
        assert (out_image == image).all()
        assert (out_mask == mask).all()
        assert out_mask.dtype == dtype


def test_plain_tensors_and_pillow_images_will_do():
    """torchvision's own transforms would leave a plain mask where it is."""
    image, mask = pair(30, 40)
    as_pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    transform = segmentation_train((30, 30), 20, fill=FILL)
    for seed in range(10):
        torch.manual_seed(seed)
        changed = transform(as_pillow, mask.as_subclass(torch.Tensor))
        assert check_alignment(*changed, 40, 255, 200) == 400
    assert (mask == pair(30, 40)[1]).all()


@pytest.mark.parametrize("mask", [torch.zeros(30, 41), torch.zeros(40, 30), np.zeros((30, 40))])
def test_masks_that_do_not_fit(mask):
    with pytest.raises(ValueError, match=r"the mask of an image \[3, 30, 40\] must be a tensor of its size, got"):
        segmentation_eval()(torch.zeros(3, 30, 40), mask)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: segmentation_train((0, 5)), r"base_size must be two lengths from 1 on, .*, got \(0, 5\)"),
        (lambda: segmentation_train((6, 5)), r"got \(6, 5\)"),
        (lambda: segmentation_train(crop_size=0), "crop_size must be at least 1 pixel, got 0"),
        (lambda: saliency_train(crop=(3, 0)), r"crop must be at least 1 pixel, got \(3, 0\)"),
        (lambda: saliency_train(resize=0), "resize must be at least 1 pixel, got 0"),
        (lambda: segmentation_train(jitter=2), "jitter must lie between 0 and 1, got 2"),
        (lambda: segmentation_train(hflip=1.5), "hflip must be a probability from 0 to 1, got 1.5"),
        (lambda: segmentation_train(vflip=math.nan), "vflip must be a probability from 0 to 1, got nan"),
        (lambda: segmentation_train(fill=(0.5, 2)), r"fill must be three numbers from 0 to 255, got \(0.5, 2\)"),
        (lambda: segmentation_train(fill=(0, 0, 256)), "fill must be three numbers from 0 to 255"),
    ],
)
def test_arguments_are_checked(create, message):
    with pytest.raises(ValueError, match=message):
        create()


def test_what_they_are_is_shown():
    assert repr(saliency_train(7, 6, 0.5)).startswith("DenseTransform([Resize((7, 7)), RandomCrop(size=(6, 6)")
    assert "RandomShortSide(260, 1040)" in repr(segmentation_train())


@pytest.mark.parametrize("size", [(10, 17), (64, 90)])
def test_images_are_scaled_as_torchvision_does(size):
    """Enlarged and made smaller, by whatever layout in memory is the quicker one."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8))
    scaled, _ = saliency_train(size, size, hflip=0)(image, torch.zeros(1, 30, 40))
    assert scaled.is_contiguous()
    assert (scaled == F.resize(image, list(size), antialias=True)).all()


@pytest.mark.parametrize("values", [[0, 1, 255], [-1, 0, 3], [0, 300]])
def test_numbers_of_any_size_survive(values):
    mask = torch.from_numpy(np.random.default_rng(0).choice(values, (30, 40)))
    _, scaled = segmentation_train((30, 30), (30, 40), hflip=0)(torch.zeros(3, 30, 40), mask)
    assert (scaled == mask).all()
    assert scaled.dtype == torch.int64
