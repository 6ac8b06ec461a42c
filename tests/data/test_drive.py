import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.data import Drive
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, save, write_drive


def expected(root, number, split):
    """The target, pixel by pixel."""
    with Image.open(root / split / "1st_manual" / f"{number}_manual1.gif") as file:
        vessels = np.asarray(file.convert("L"))
    with Image.open(root / split / "mask" / f"{number}_{split}_mask.gif") as file:
        view = np.asarray(file.convert("L"))
    return [
        [255 if not view[row, column] else int(vessels[row, column] > 127) for column in range(vessels.shape[1])]
        for row in range(vessels.shape[0])
    ]


def test_vessels_inside_of_the_field_of_view(tmp_path):
    root = write_drive(tmp_path)
    dataset = Drive(root)
    assert list(dataset.file_names) == ["21_training.tif", "22_training.tif"]
    assert (dataset.class_names, dataset.num_classes) == (["background", "vessel"], 2)
    for index, number in enumerate((21, 22)):
        image, target = dataset[index]
        assert (image.dtype, target.dtype) == (torch.uint8, torch.int64)
        assert target.tolist() == expected(root, number, "training")
        with Image.open(dataset.image_path(index)) as file:
            assert (image.permute(1, 2, 0).numpy() == np.asarray(file)).all()
    assert Drive(root, "test")[0][1].tolist() == expected(root, "01", "test")


def test_another_observer(tmp_path):
    root = write_drive(tmp_path)
    save(root / "test" / "2nd_manual" / "01_manual2.gif", labels(7, [0]))
    assert not (Drive(root, "test", observer="2nd_manual")[0][1] == 1).any()


def test_files_that_miss_one_of_three(tmp_path):
    root = write_drive(tmp_path)
    (root / "training" / "mask" / "21_training_mask.gif").unlink()
    save(root / "training" / "1st_manual" / "nobody.gif", labels(7, [0]))
    with pytest.raises(
        DataError, match=r"21_training.tif: field of view: expected one of the same name in .*/mask, got"
    ):
        Drive(root)
    dataset = Drive(root, on_bad_sample="skip")
    assert list(dataset.file_names) == ["22_training.tif"]
    assert [(fault.file.rpartition("/")[2], fault.what) for fault in dataset.faults] == [
        ("21_training.tif", "field of view"),
        ("nobody.gif", "image"),
        ("nobody.gif", "field of view"),
    ]
    with pytest.raises(ValueError, match="split must be 'training' or 'test', got 'train'"):
        Drive(root, "train")
    (root / "test" / "1st_manual").rename(root / "test" / "manual")
    with pytest.raises(DataError, match="1st_manual: folder of manual segmentations: expected a folder"):
        Drive(root, "test")


def test_sizes_of_all_three(tmp_path):
    root = write_drive(tmp_path)
    path = root / "training" / "mask" / "22_training_mask.gif"
    dataset = Drive(root)
    save(path, np.full((20, 20), 255, dtype=np.uint8))
    with pytest.raises(
        DataError, match=r"22_training_mask.gif: size: expected 40 x 30 as .*22_manual1.gif has, got 20 x"
    ):
        dataset[1]
    with pytest.raises(DataError, match=r"22_training_mask.gif: size: expected 40 x 30 as .*22_training.tif has"):
        Drive(root)


@pytest.mark.data
def test_real_data(real_data):
    training, test = (Drive(real_data / "drive" / "DRIVE", split) for split in ("training", "test"))
    assert (len(training), len(test)) == (14, 8)
    image, target = test[3]
    assert image.shape == (3, 584, 565)
    assert target.tolist() == expected(real_data / "drive" / "DRIVE", "04", "test")
    # Vessels are about an eighth of the field of view, which is about seven tenths of the image.
    assert 0.08 < (target == 1).sum() / (target < 2).sum() < 0.16
    assert 0.25 < (target == 255).float().mean() < 0.35
