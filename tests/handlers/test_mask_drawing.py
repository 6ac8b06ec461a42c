from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.handlers import cut_out, mask_overlay, palette_image
from ignite_imgtools.handlers.drawing import class_color
from ignite_imgtools.handlers.mask_drawing import legend_picture, mask_palette, resize_labels


def _image(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_labels_have_colours_of_their_own() -> None:
    palette = mask_palette()
    assert palette.shape == (256, 3)
    assert tuple(palette[0]) == (0, 0, 0)
    assert tuple(palette[255]) == (224, 224, 224)
    # As boxes of that class.
    assert [tuple(color) for color in palette[1:12].tolist()] == [class_color(label) for label in range(1, 12)]
    differences = np.abs(palette[:61, None].astype(int) - palette[None, :61]).sum(axis=2)
    assert (differences + 1000 * np.eye(61) > 20).all()
    assert tuple(mask_palette(background=None)[0]) == class_color(0)


def test_a_palette_image_holds_the_labels_themselves() -> None:
    labels = np.random.default_rng(1).integers(0, 256, (7, 9))
    encoded = io.BytesIO()
    palette_image(labels).save(encoded, "PNG")
    picture = Image.open(encoded)
    assert picture.mode == "P"
    assert (np.asarray(picture) == labels).all()
    assert (np.asarray(picture.convert("RGB")) == mask_palette()[labels]).all()


def test_an_overlay_leaves_the_background_and_paints_borders() -> None:
    image = _image()
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[5:15, 8:20] = 2
    drawn = mask_overlay(image, labels)
    assert (drawn[labels == 0] == image[labels == 0]).all()
    assert (drawn[5, 8:20] == mask_palette()[2]).all()
    inner = drawn[6:14, 9:19].astype(float)
    expected = 0.45 * image[6:14, 9:19] + 0.55 * mask_palette()[2]
    assert np.abs(inner - expected).max() <= 1
    assert (mask_overlay(image, labels, background=None)[0, 0] != image[0, 0]).any()


def test_what_is_ignored_is_hatched() -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    drawn = mask_overlay(image, np.full((20, 30), 255, dtype=np.uint8))[..., 0]
    assert sorted(np.unique(drawn).tolist()) == [56, 179]
    assert (drawn == 179).mean() == pytest.approx(0.25, abs=0.05)


def test_the_legend_names_each_label_in_lines_that_fit() -> None:
    names = ["background", *(f"class number {i}" for i in range(1, 9))]
    wide, narrow = legend_picture(range(1, 9), names, 2000), legend_picture([*range(1, 9), 255], names, 200)
    assert wide.size[0] == 2000
    assert narrow.size[1] > 3 * wide.size[1]
    for label in range(1, 9):
        assert (np.asarray(wide) == mask_palette()[label]).all(axis=2).sum() > 100, label
    assert (np.asarray(narrow) == mask_palette()[255]).all(axis=2).any()


def test_labels_are_resized_to_the_nearest() -> None:
    labels = np.array([[1, 2], [3, 255]], dtype=np.uint8)
    assert (resize_labels(labels, (4, 6)) == labels.repeat(3, 0).repeat(2, 1)).all()


def test_a_cut_out_has_the_map_as_its_transparency() -> None:
    image, saliency = _image(), np.arange(600, dtype=np.uint8).reshape(20, 30)
    picture = cut_out(image, saliency)
    assert picture.mode == "RGBA"
    assert (np.asarray(picture)[..., :3] == image).all()
    assert (np.asarray(picture)[..., 3] == saliency).all()
