"""Data in YOLO's format: what is read, and each fault in one line that names the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ignite_imgtools.data import YoloDetection, check_dataset, coco_index, create_loader, open_detection_data
from ignite_imgtools.data.yolo_layout import label_name
from ignite_imgtools.formats import DataError
from tests.data.yolo_folder import BAD_ROWS, YAML, write_image, write_yolo_folder


def test_boxes_labels_and_negatives(tmp_path: Path) -> None:
    train_set, val_set = open_detection_data(write_yolo_folder(tmp_path))
    assert isinstance(train_set, YoloDetection)
    assert train_set.class_names == ["__background__", "cat", "dog"]
    assert train_set.category_ids == {1: 0, 2: 1}
    assert (len(train_set), len(val_set)) == (3, 1)
    image, target = train_set[0]
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 30, 40))
    assert target["boxes"].tolist() == [[15, 7.5, 25, 22.5], [0, 0, 20, 12]]
    assert target["labels"].tolist() == [1, 2]
    assert target["area"].tolist() == [150, 240]
    assert target["image_id"] == 0
    # Centred on the corner: clipped in the target, as it stands in the index for evaluation.
    assert train_set.annotations(1)["boxes"].tolist() == [[30, 22.5, 40, 30]]
    assert coco_index(train_set).imgToAnns[1][0]["bbox"] == [30, 22.5, 20, 15]
    assert train_set.annotations(2)["boxes"].shape == (0, 4)
    assert train_set.image_size(2) == (30, 40)
    assert train_set.image_path(2) == tmp_path / "images" / "train" / "c.jpg"
    assert len(YoloDetection(tmp_path, "train", drop_empty=True)) == 2
    assert check_dataset("yolo", tmp_path) == []


@pytest.mark.parametrize("group_by", ["shape", "aspect"])
def test_images_are_grouped(tmp_path: Path, group_by: str) -> None:
    write_yolo_folder(tmp_path)
    write_image(tmp_path / "images" / "train" / "tall.jpg", 60, 30)
    dataset = YoloDetection(tmp_path)
    loader = create_loader(dataset, 2, shuffle=True, group_by=group_by)
    shapes = [{tuple(image.shape) for image in images} for images, _ in loader]
    assert all(len(of_batch) == 1 for of_batch in shapes)
    assert len(shapes) == 3


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("images/images/a.b.png", "images/labels/a.b.txt"),
        ("my_images/images.jpg", "my_images/images.txt"),
        ("images.d/a.jpg", "images.d/a.txt"),
    ],
)
def test_only_the_last_folder_named_images_is_replaced(image: str, label: str) -> None:
    assert label_name(image) == label


def test_a_data_set_below_a_folder_named_images(tmp_path: Path) -> None:
    dataset = YoloDetection(write_yolo_folder(tmp_path / "images" / "set"))
    assert dataset.table.labels.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    "yaml",
    [
        "names: {0: cat, 1: dog}\ntrain: images/train\nvalid: images/val",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', \"dog\"]",  # as some exports write it
        "path: /somewhere/else\ntrain: images/train\nval: images/val\nnames: [cat, dog]",
        "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames: [cat, dog]",
        "path: images\ntrain: train\nval: val\nnames: [cat, dog]",
        "train: [images/train]\nval: [val.txt]\nnames: [cat, dog]",
    ],
)
def test_ways_to_describe_the_same(tmp_path: Path, yaml: str) -> None:
    write_yolo_folder(tmp_path, yaml)
    (tmp_path / "val.txt").write_text("./images/val/d.jpg\n")
    train_set, val_set = open_detection_data(tmp_path)
    assert [dataset.table.labels.tolist() for dataset in (train_set, val_set)] == [[1, 2, 2], [1]]
    assert train_set.class_names[1:] == ["cat", "dog"]


def test_absolute_paths_inside_of_the_folder(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, f"path: {tmp_path}\ntrain: {tmp_path}/train.txt\nval: images/val\nnames: [cat, dog]")
    (tmp_path / "train.txt").write_text(f"{tmp_path}/images/train/b.jpg\n\n{tmp_path}/images/train/a.jpg\n")
    dataset = YoloDetection(tmp_path)
    assert [dataset.table.name(index) for index in range(2)] == ["images/train/b.jpg", "images/train/a.jpg"]


def test_lists_without_a_description(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "train.txt").write_text("images/train/a.jpg\nimages/train/c.jpg\n")
    (tmp_path / "valid.txt").write_text("images/val/d.jpg\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    train_set, val_set = open_detection_data(tmp_path, "yolo")
    assert (len(train_set), len(val_set)) == (2, 1)
    assert train_set.class_names[1:] == ["cat", "dog"]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_bad_rows(tmp_path: Path, row: str, message: str) -> None:
    write_yolo_folder(tmp_path)
    path = tmp_path / "labels" / "train" / "a.txt"
    path.write_text(f"1 0.25 0.2 0.5 0.4\n\n{row}\n0 0.5 0.5 1.00001 1\n")
    (fault,) = check_dataset("yolo", tmp_path)
    assert str(fault).startswith(f"{path}: line 3: {message}")
    with pytest.raises(DataError) as caught:
        open_detection_data(tmp_path)
    assert str(caught.value).startswith(f"{path}: line 3: {message}")
    assert "\n" not in str(caught.value)
    train_set, _ = open_detection_data(tmp_path, on_bad_sample="skip")
    assert len(train_set.annotations(0)["labels"]) == 2


def test_all_faults_in_one_pass(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path)
    labels, images = tmp_path / "labels", tmp_path / "images"
    (labels / "train" / "a.txt").write_text("7 0.5 0.5 0.5 0.5\n0 0.5 inf 0.5 0.5\n")
    (labels / "train" / "lost.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (labels / "train" / "classes.txt").write_text("cat\ndog\n")
    (labels / "val" / "d.txt").write_bytes(b"\xff\xfe\x00")
    (images / "train" / "b.jpg").write_bytes((images / "train" / "b.jpg").read_bytes()[:200])
    faults = list(map(str, check_dataset("yolo", tmp_path)))
    places = ["lost.txt: image: expected one of this name", "a.txt: line 1: class", "a.txt: line 2: columns"]
    places += ["b.jpg: ", "d.txt: label file: expected UTF-8 text"]
    assert len(faults) == len(places)
    assert all(place in fault for place, fault in zip(places, faults, strict=True)), faults


def test_bad_lists(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, YAML.replace("images/train", "train.txt"))
    (tmp_path / "train.txt").write_text(
        "images/train/a.jpg\nimages/train/a.jpg\nimages/train/x.jpg\n../b.jpg\n/etc/c.jpg\n"
    )
    faults = list(map(str, check_dataset("yolo", tmp_path)))
    assert [fault.split(str(tmp_path))[1].split(": ")[0] for fault in faults] == ["/train.txt"] * 3 + [
        "/images/train/x.jpg"
    ]
    assert "line 2: image: expected each once, got 'images/train/a.jpg' again" in faults[0]
    assert "line 4: image '../b.jpg': expected one inside of" in faults[1]
    assert "line 5: image '/etc/c.jpg': expected one inside of" in faults[2]
    assert "no such image file" in faults[3]


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    root = write_yolo_folder(tmp_path / "data")
    (tmp_path / "secret.txt").write_text("0 0.5 0.5 0.5 0.5")
    (root / "labels" / "train" / "c.txt").symlink_to(tmp_path / "secret.txt")
    (fault,) = check_dataset("yolo", root)
    assert "follows a link out of" in str(fault)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "expected names, train and val, got {'train': 'images/train'}"),
        ("- 1\n", r"expected names, train and val, got \[1\]"),
        ("names: [cat, dog]\ntrain: nowhere\n", "train: expected a folder of images or a list of them inside of"),
        ("names: [cat, dog]\ntrain: ../..\n", "train: expected a folder of images or a list of them inside of"),
        ("names: [cat, dog]\ntrain: 3\n", "train: expected a folder of images .*, got 3; write its path"),
        ("names: [cat, dog]\ntrain:\n", "train: expected a folder of images or a list of them, got nothing"),
        ("names: [cat, dog]\nnc: 3\ntrain: images/train\n", "nc: expected 2, as many as there are names, got 3"),
        ("names: [cat, no]\ntrain: images/train\n", "names: expected a name for class 1, got False; put it in quotes"),
        ("names: [cat, cat]\ntrain: images/train\n", "names: expected different names, got 'cat' twice"),
        ("names: {0: cat, 2: dog}\ntrain: images/train\n", r"names: expected the classes 0 to 1, got \[0, 2\]"),
        ("names: []\ntrain: images/train\n", r"names: expected a list of the classes, got \[\]"),
        ("names: [a\ntrain: b", "expected YAML"),
        ("names: &a [cat, dog]\ntrain: *a\n", "expected YAML, an alias"),
        ("names: !!python/object/apply:os.system [id]\ntrain: a\n", "expected YAML, could not determine a constructor"),
        ("names: " + "[" * 500, "expected YAML"),
    ],
)
def test_bad_descriptions(tmp_path: Path, yaml: str, message: str) -> None:
    write_yolo_folder(tmp_path, yaml)
    for read in (open_detection_data, lambda folder, name: check_dataset(name, folder), lambda f, _: YoloDetection(f)):
        with pytest.raises(DataError, match=f"data.yaml: .*{message}") as caught:
            read(tmp_path, "yolo")
        assert "\n" not in str(caught.value)


def test_labels_in_the_wrong_place(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    with pytest.raises(
        DataError, match=r"labels: expected at least one label file, such as .*labels/train/a\.txt, got"
    ):
        open_detection_data(tmp_path)


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data\.yaml as YOLO has it, and no train\.txt with classes\.txt either"):
        open_detection_data(tmp_path, "yolo")
    with pytest.raises(DataError, match="parts: expected a part 'test', got train, val"):
        YoloDetection(write_yolo_folder(tmp_path), "test")
    with pytest.raises(DataError, match="names: expected the 1 classes given, got 2 others"):
        YoloDetection(tmp_path, class_names=["__background__", "cat"])
