"""The built-in data as segmentation and saliency: what is written is what was drawn, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.data import (
    Drive,
    SaliencyPairs,
    SegmentationFolder,
    VocSegmentation,
    check_dataset,
    class_names,
    make_data,
    open_saliency_data,
    open_segmentation_data,
)
from ignite_imgtools.data.shapes import CLASSES, create_shapes_image
from ignite_imgtools.data.shapes_dense import label_map
from ignite_imgtools.data.shapes_files import part_seed

FORMATS = ("voc_segmentation", "drive", "masks", "saliency")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {name: make_data(name, folder / name, num_train=6, num_val=4, seed=5, image_size=96) for name in FORMATS}


@pytest.fixture(scope="module")
def drawn():
    return [create_shapes_image(part_seed(5, "val"), index, 96) for index in range(4)]


def test_labels_of_pixels(drawn):
    for shapes in drawn:
        labels = label_map(shapes)
        for row in range(0, labels.shape[0], 3):
            for column in range(0, labels.shape[1], 3):
                (label,) = [shape.label for shape in shapes.objects if shape.mask[row, column]] or [0]
                assert labels[row, column] == label


def test_masks_are_what_was_drawn(made, drawn):
    dataset = SegmentationFolder(
        made["masks"] / "images" / "val", made["masks"] / "masks" / "val", class_names=list("abcdef")
    )
    for index, shapes in enumerate(drawn):
        image, target = dataset[index]
        assert (target.numpy() == label_map(shapes)).all()
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - shapes.image).mean() < 4


def test_saliency_is_where_any_shape_is(made, drawn):
    root = made["saliency"] / "DUTS-TE"
    dataset = SaliencyPairs(root / "DUTS-TE-Image", root / "DUTS-TE-Mask")
    for index, shapes in enumerate(drawn):
        assert (dataset[index][1][0].numpy() == (label_map(shapes) > 0)).all()


def test_vocs_borders_are_where_objects_end(made, drawn):
    dataset = VocSegmentation(made["voc_segmentation"] / "VOCdevkit" / "VOC2012", "val")
    assert list(dataset.file_names) == [f"val_{number:06d}.jpg" for number in range(1, 5)]
    for index, shapes in enumerate(drawn):
        target, labels = dataset.target(index).numpy(), label_map(shapes)
        owner = sum(((number + 1) * shape.mask.astype(int) for number, shape in enumerate(shapes.objects)), 0 * labels)
        height, width = labels.shape
        for row in range(height):
            for column in range(width):
                around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
                inside = [owner[y, x] for y, x in around if 0 <= y < height and 0 <= x < width]
                border = any(other != owner[row, column] for other in inside)
                assert target[row, column] == (255 if border else labels[row, column])
    with Image.open(dataset.mask_path(0)) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[3:6] == [128, 0, 0]


def test_drive_has_its_kinds_of_files_and_a_field_of_view(made, drawn):
    folder = made["drive"] / "DRIVE" / "test"
    kinds = {
        "images/000001_test.tif": "TIFF",
        "1st_manual/000001_manual1.gif": "GIF",
        "mask/000001_test_mask.gif": "GIF",
    }
    for name, kind in kinds.items():
        with Image.open(folder / name) as image:
            assert image.format == kind
    dataset = Drive(folder.parent, "test")
    for index, shapes in enumerate(drawn):
        image, target = dataset[index]
        height, width = target.shape
        x, y = (np.arange(width) + 0.5) / width * 2 - 1, (np.arange(height) + 0.5) / height * 2 - 1
        distance = np.hypot(x, y[:, None])
        assert (target[torch.from_numpy(distance > 0.9601)] == 255).all()
        inside = distance < 0.9599
        assert (target.numpy()[inside] == (label_map(shapes) > 0)[inside]).all()
        # Nothing is lost in a TIFF.
        expected = np.where((target.numpy() == 255)[..., None], 0, shapes.image)
        assert (image.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_can_be_used(made, name):
    assert check_dataset(name, made[name]) == []
    if name == "saliency":
        train_set, val_set = open_saliency_data(made[name])
        names = []
    else:
        train_set, val_set = open_segmentation_data(made[name])
        names = ["background", "vessel"] if name == "drive" else ["background", *CLASSES]
    assert (len(train_set), len(val_set)) == (6, 4)
    assert class_names(train_set) == class_names(val_set) == names
    image, target = val_set[3]
    assert val_set.image_size(3) == tuple(image.shape[1:]) == tuple(target.shape[-2:])
    shares = torch.bincount(train_set[0][1].flatten().long(), minlength=2)[:6] / target.numel()
    assert shares[1:].sum() > 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_without_validation_images(tmp_path, name):
    folder = make_data(name, tmp_path / name, num_train=3, num_val=0, image_size=64)
    assert check_dataset(name, folder) == []
    opened = open_saliency_data(folder) if name == "saliency" else open_segmentation_data(folder)
    assert sorted(map(len, opened)) == [1, 2]
