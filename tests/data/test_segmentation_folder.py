import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.data import SegmentationFolder
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, save, write_masks


def test_numbers_of_the_masks(tmp_path):
    write_masks(tmp_path)
    save(tmp_path / "masks" / "b.png", labels(1, [0, 2, 255]), "P")
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks")
    assert dataset.class_names == ["class_0", "class_1", "class_2"]
    for index, stem in enumerate("abc"):
        image, target = dataset[index]
        with Image.open(tmp_path / "masks" / f"{stem}.png") as file:
            assert target.tolist() == np.asarray(file).tolist()
        assert (image.dtype, target.dtype) == (torch.uint8, torch.int64)
        assert image.shape[1:] == target.shape


@pytest.mark.parametrize("place", ["masks", "."])
def test_names_from_a_list(tmp_path, place):
    write_masks(tmp_path)
    (tmp_path / place / "classes.txt").write_text("road\ncar\nsky\ntree\n")
    assert SegmentationFolder(tmp_path / "images", tmp_path / "masks").class_names == ["road", "car", "sky", "tree"]
    (tmp_path / place / "classes.txt").write_text("road\ncar\n")
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(DataError, match=r"a.png: class numbers: expected 0 to 1, or 255 where ignored, got 2 \("):
        dataset[0]


def test_a_number_that_means_ignored(tmp_path):
    write_masks(tmp_path)
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", class_names=["a", "b"], ignored=[2])
    values = labels(0, [0, 1, 2, 255])
    assert dataset[0][1].tolist() == np.where(values == 2, 255, values).tolist()
    with pytest.raises(ValueError, match=r"ignored must be numbers from 0 to 255, got \[-1\]"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks", class_names=["a", "b"], ignored=[-1])


def test_a_list_of_files_written_elsewhere(tmp_path):
    write_masks(tmp_path, "train", "trainannot")
    list_file = tmp_path / "train.txt"
    list_file.write_text("/SegNet/CamVid/train/c.jpg /SegNet/CamVid/trainannot/c.png\nC:\\x\\a.jpg y\\b.png\n")
    dataset = SegmentationFolder(tmp_path / "train", tmp_path / "trainannot", list_file=list_file)
    assert list(dataset.file_names) == ["c.jpg", "a.jpg"]
    assert dataset.mask_path(1) == tmp_path / "trainannot" / "b.png"

    list_file.write_text("train/c.jpg trainannot/c.png\ntrain/d.jpg trainannot/a.png\na.jpg\nb.jpg x/..\n")
    dataset = SegmentationFolder(tmp_path / "train", tmp_path / "trainannot", list_file=list_file, on_bad_sample="skip")
    assert list(dataset.file_names) == ["c.jpg"]
    assert [str(fault) for fault in dataset.faults] == [
        f"{list_file}: line 3: paths: expected of an image and of its mask, got 'a.jpg'; correct it",
        f"{tmp_path}/train/d.jpg: named by {list_file}, line 2: no such image file; correct the annotation or restore "
        "the file",
        f"{list_file}: line 4: file name '..' goes up out of {tmp_path}/trainannot; correct the annotation",
    ]
    with pytest.raises(
        DataError, match=r"line 3: paths: .*on_bad_sample='skip' \(2 more faults: `ignite-imgtools check"
    ):
        SegmentationFolder(tmp_path / "train", tmp_path / "trainannot", list_file=list_file)


def test_masks_that_number_nothing(tmp_path):
    for stem in "ab":
        save(tmp_path / "images" / f"{stem}.png", np.zeros((5, 5, 3), dtype=np.uint8))
        save(tmp_path / "masks" / f"{stem}.png", labels(0, [0, 255], 5, 5))
    with pytest.raises(DataError, match=r"masks: class numbers: expected 0, 1, 2, .*, got 0, 255; write class numbers"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks")


@pytest.mark.data
def test_camvid(real_data):
    root = real_data / "camvid" / "CamVid"
    names = [str(number) for number in range(11)]
    dataset = SegmentationFolder(
        root / "val", root / "valannot", class_names=names, list_file=root / "val.txt", ignored=[11]
    )
    assert len(dataset) == 6
    with Image.open(dataset.mask_path(2)) as file:
        values = np.asarray(file)
    assert (dataset[2][1].numpy() == np.where(values == 11, 255, values)).all()
    # Without that, the twelfth number is one class more.
    assert SegmentationFolder(root / "val", root / "valannot").num_classes == 12
