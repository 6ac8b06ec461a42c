from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.data import (
    ClassFolders,
    check_dataset,
    class_names,
    collate_classification,
    create_loader,
    make_data,
    open_classification_data,
    split_classes,
)
from ignite_imgtools.data.transforms import classification_eval
from ignite_imgtools.formats import DataError


def _picture(path: Path, color: tuple[int, int, int] = (200, 40, 90), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), color).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("cat", 5), ("ant", 3), ("bee", 1)):
        for number in range(count):
            _picture(tmp_path / name / f"{number}.png")
    return tmp_path


def test_samples_are_sorted_by_class_and_name(folder: Path) -> None:
    _picture(folder / "cat" / "more" / "x.JPEG")
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / ".git").mkdir()
    _picture(folder / ".git" / "x.png")
    _picture(folder / "cat" / ".hidden.png")
    dataset = ClassFolders(folder)
    assert dataset.class_names == ["ant", "bee", "cat"]
    assert dataset.file_names == [
        *("ant/0.png", "ant/1.png", "ant/2.png", "bee/0.png"),
        *(f"cat/{number}.png" for number in range(5)),
        "cat/more/x.JPEG",
    ]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    image, label = dataset[3]
    assert (image.shape, image.dtype, label.dtype, int(label)) == ((3, 8, 12), torch.uint8, torch.int64, 1)
    assert dataset.image_size(3) == (8, 12)
    assert dataset.image_path(3) == folder / "bee" / "0.png"
    assert class_names(dataset) == dataset.class_names


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("L", "jpg"), ("P", "png"), ("P", "gif"), ("CMYK", "jpg"), ("RGBA", "png")]
)
def test_images_of_every_mode_have_three_channels(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / f"x.{suffix}"
    _picture(path, mode=mode)
    _picture(tmp_path / "b" / "y.png")
    assert check_dataset("class_folders", tmp_path) == []
    image, _ = ClassFolders(tmp_path)[0]
    with Image.open(path) as stored:
        assert stored.mode == mode
        expected = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 3


def test_each_class_is_split_by_the_seed() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 20, 2, 1])
    train, val = split_classes(labels, 0.2, seed=3)
    assert sorted(train + val) == list(range(73))
    assert np.bincount(labels[val], minlength=4).tolist() == [10, 4, 1, 0]
    assert split_classes(labels, 0.2, seed=3) == (train, val)
    assert split_classes(labels, 0.2, seed=4)[1] != val
    # A class keeps its parts when others grow behind it.
    assert split_classes(labels[:70], 0.2, seed=3)[1] == [index for index in val if index < 70]
    with pytest.raises(ValueError, match=r"val_fraction must lie between 0 and 1, got 1"):
        split_classes(labels, 1, seed=0)


@pytest.mark.parametrize("inner", ["", "insects"])
def test_folders_without_parts_are_split(inner: str, tmp_path: Path) -> None:
    for name, count in (("cat", 5), ("ant", 3), ("bee", 1)):
        for number in range(count):
            _picture(tmp_path / inner / name / f"{number}.png")
    train, val = open_classification_data(tmp_path, val_fraction=0.4)
    assert (len(train), len(val)) == (6, 3)
    assert class_names(train) == class_names(val) == ["ant", "bee", "cat"]


def test_transforms_belong_to_their_part(folder: Path) -> None:
    train, val = open_classification_data(
        folder, train_transforms=lambda *_: ("train", 0), val_transforms=lambda *_: ("val", 0)
    )
    assert train[0][0] == "train"
    assert val[0][0] == "val"


@pytest.mark.parametrize("name", ["val", "valid", "test"])
def test_parts_that_there_are_are_taken(name: str, tmp_path: Path) -> None:
    root = tmp_path / "insects"
    for path in ("train/ant/0.png", "train/bee/0.png", "train/cat/1.png", f"{name}/bee/7.png"):
        _picture(root / path)
    train, val = open_classification_data(tmp_path, "class_folders")
    assert [len(train), len(val)] == [3, 1]
    assert class_names(val) == ["ant", "bee", "cat"]  # though it has images of one alone
    assert int(val[0][1]) == 1
    assert check_dataset("class_folders", tmp_path) == []


def test_a_class_of_the_validation_alone_is_refused(tmp_path: Path) -> None:
    for path in ("train/ant/0.png", "train/bee/0.png", "val/bee/0.png", "val/wasp/0.png"):
        _picture(tmp_path / path)
    message = f"{tmp_path / 'val' / 'wasp'}: class: expected one of ant, bee, got wasp; add it to the training part"
    with pytest.raises(DataError) as error:
        open_classification_data(tmp_path)
    assert str(error.value).startswith(message)
    (fault,) = check_dataset("class_folders", tmp_path)
    assert str(fault).startswith(message)


def test_bad_files_are_told_or_left_out(folder: Path) -> None:
    (folder / "ant" / "0.png").write_bytes((folder / "ant" / "1.png").read_bytes()[:-20])
    (folder / "cat" / "0.png").write_bytes(b"")
    (folder / "empty").mkdir()
    faults = check_dataset("class_folders", folder)
    assert [Path(fault.file).relative_to(folder).as_posix() for fault in faults] == ["ant/0.png", "cat/0.png", "empty"]
    assert "breaks off before its end" in str(faults[0])
    assert str(faults[2]).endswith("images: expected at least one, got none; add some, or remove the folder")
    with pytest.raises(DataError, match=r"2 more faults: `ignite-imgtools check class_folders --data DIR`"):
        ClassFolders(folder)
    dataset = ClassFolders(folder, on_bad_sample="skip")
    assert len(dataset) == 7
    assert len(dataset.faults) == 3


def test_a_link_out_of_the_folder_is_no_sample(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    _picture(outside)
    (folder / "ant" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match="follows a link out of"):
        ClassFolders(folder)


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder for each class with its images"):
        open_classification_data(tmp_path)
    _picture(tmp_path / "one" / "0.png")
    with pytest.raises(DataError, match="expected at least 2 folders of classes, got 1"):
        open_classification_data(tmp_path)
    assert "expected at least 2 folders, got one" in str(check_dataset("class_folders", tmp_path)[0])
    with pytest.raises(ValueError, match="data_format must be one of class_folders, got 'coco'"):
        open_classification_data(tmp_path, "coco")


def test_batches_are_stacked(folder: Path) -> None:
    loader = create_loader(
        ClassFolders(folder, transforms=classification_eval(6, 7)), 4, collate_fn=collate_classification
    )
    images, labels = next(iter(loader))
    assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 6, 6), torch.uint8, torch.int64)
    assert type(images) is torch.Tensor
    assert labels.tolist() == [0, 0, 0, 1]
    assert collate_classification([]) == ([], [])
    with pytest.raises(ValueError, match=r"images of one size \(height x width\), got 4 x 5, 6 x 5"):
        collate_classification([(torch.zeros(3, 6, 5), 0), (torch.zeros(3, 4, 5), 1)])


def test_built_in_images_show_one_shape_each(tmp_path: Path) -> None:
    root = make_data("class_folders", tmp_path / "data", num_train=11, num_val=5, seed=2, image_size=96)
    assert check_dataset("class_folders", root) == []
    train, val = open_classification_data(root)
    assert class_names(train) == ["cross", "ellipse", "rectangle", "star", "triangle"]
    assert sorted(np.bincount(train.labels).tolist()) == [2, 2, 2, 2, 3]
    assert np.bincount(val.labels).tolist() == [1] * 5
    assert min(min(train.image_size(index)) for index in range(len(train))) >= 14


@pytest.mark.data
def test_real_photographs(real_data: Path) -> None:
    train, val = open_classification_data(real_data / "flower_photos")
    assert (len(train), len(val)) == (320, 80)
    assert class_names(train) == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    train, val = open_classification_data(real_data / "hymenoptera_data")
    assert class_names(val) == ["ants", "bees"]
    assert len(train) + len(val) == 150
