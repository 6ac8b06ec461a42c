import json
import shutil

import pytest

from ignite_imgtools.data import class_names, coco_index, find_layout, open_detection_data
from ignite_imgtools.data.layouts import CocoPart, VocPart
from ignite_imgtools.formats import DataError
from tests.data.coco_folder import coco_content, write_coco_folder
from tests.data.voc_folder import write_voc_folder


def add_val(folder, content=None, ending=""):
    shutil.copytree(folder / "train", folder / f"val{ending}")
    file = folder / "annotations" / f"instances_val{ending}.json"
    file.write_text(json.dumps(content or coco_content()))


def test_coco(tmp_path):
    file = write_coco_folder(tmp_path)
    layout = find_layout(tmp_path)
    assert (layout.data_format, layout.train, layout.val) == ("coco", CocoPart(tmp_path / "train", file), None)
    add_val(tmp_path, ending="2017")
    assert find_layout(tmp_path, "coco").val.images_dir == tmp_path / "val2017"
    (tmp_path / "images").mkdir()
    (tmp_path / "train").rename(tmp_path / "images" / "train")
    assert find_layout(tmp_path).train.images_dir == tmp_path / "images" / "train"


@pytest.mark.parametrize("place", ["", "VOCdevkit/VOC2012", "VOC2007"])
def test_voc(tmp_path, place):
    root = write_voc_folder(tmp_path / place)
    layout = find_layout(tmp_path)
    assert (layout.data_format, layout.train, layout.val) == ("voc", VocPart(root, "train"), VocPart(root, "val"))
    (root / "ImageSets" / "Main" / "val.txt").unlink()
    assert find_layout(tmp_path).val is None
    (root / "ImageSets" / "Main" / "train.txt").rename(root / "ImageSets" / "Main" / "trainval.txt")
    assert find_layout(tmp_path, "voc").train == VocPart(root, "trainval")


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"no data set found; no annotations/instances_train\*.json .*; no ImageSets/Main"
    ):
        find_layout(tmp_path)
    with pytest.raises(DataError, match=r"no ImageSets/Main/train.txt as VOC has it, here, in VOCdevkit/\* or in \*/"):
        find_layout(tmp_path, "voc")
    with pytest.raises(DataError, match="expected a folder with a data set, got nothing there"):
        find_layout(tmp_path / "none")
    with pytest.raises(ValueError, match="data_format must be one of coco, voc, yolo, penn_fudan, got 'yolo9'"):
        find_layout(tmp_path, "yolo9")
    write_coco_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "pictures")
    with pytest.raises(DataError, match="no folder train, images/train with the images of instances_train"):
        find_layout(tmp_path, "coco")


def test_more_than_one_found(tmp_path):
    write_coco_folder(tmp_path / "both")
    write_voc_folder(tmp_path / "both")
    with pytest.raises(DataError, match="holds data sets in formats coco and voc; choose one"):
        find_layout(tmp_path / "both")
    assert find_layout(tmp_path / "both", "voc").data_format == "voc"
    for year in ("VOC2007", "VOC2012"):
        write_voc_folder(tmp_path / year)
    with pytest.raises(DataError, match=r"several data sets: .*VOC2007, .*VOC2012.*; give the path of one"):
        find_layout(tmp_path, "voc")
    file = tmp_path / "both" / "annotations" / "instances_train.json"
    shutil.copy(file, file.with_name("instances_train2014.json"))
    with pytest.raises(DataError, match=r"several files .*: instances_train.json, instances_train2014.json; leave one"):
        find_layout(tmp_path / "both", "coco")


def test_parts_are_opened_with_their_transforms(tmp_path):
    write_coco_folder(tmp_path)
    add_val(tmp_path)
    train_set, val_set = open_detection_data(
        tmp_path, train_transforms=lambda *_: "train", val_transforms=lambda *_: "val", drop_empty=True
    )
    assert (len(train_set), len(val_set)) == (2, 3)
    assert (train_set[0], val_set[0]) == ("train", "val")
    assert class_names(train_set) == class_names(val_set) == ["__background__", "cat", "dog"]


def test_without_a_validation_part_the_seed_splits(tmp_path):
    write_coco_folder(tmp_path)
    options = {"train_transforms": lambda *_: "train", "val_transforms": lambda *_: "val", "val_fraction": 0.34}
    splits = set()
    for seed in range(20):
        train_set, val_set = open_detection_data(tmp_path, seed=seed, **options)
        train_ids, val_ids = (coco_index(part).getImgIds() for part in (train_set, val_set))
        assert (len(train_ids), len(val_ids)) == (2, 1)
        assert sorted(train_ids + val_ids) == [1, 2, 3]
        assert (train_set[0], val_set[0]) == ("train", "val")
        again = open_detection_data(tmp_path, seed=seed, **options)[1]
        assert coco_index(again).getImgIds() == val_ids
        splits.add(val_ids[0])
        train_set, _ = open_detection_data(tmp_path, seed=seed, drop_empty=True, **options)
        assert coco_index(train_set).getImgIds() == [id_ for id_ in train_ids if id_ != 2]
    assert splits == {1, 2, 3}


def test_both_parts_of_voc_have_the_same_labels(tmp_path):
    write_voc_folder(tmp_path)
    train_set, val_set = open_detection_data(tmp_path)
    assert class_names(train_set) == class_names(val_set) == ["__background__", "dog", "wolf", "zebra"]


def test_parts_with_other_classes_are_refused(tmp_path):
    write_coco_folder(tmp_path)
    content = coco_content()
    content["categories"].append({"id": 6, "name": "cow"})
    add_val(tmp_path, content)
    message = (
        r"instances_val.json: categories: expected the 2 of the training part, got 3 that differ, "
        "the first at label 2: 'dog' and 'cow'; list the same"
    )
    with pytest.raises(DataError, match=message):
        open_detection_data(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "counts"),
    [("bccd_voc/BCCD", (38, 10)), ("voc2012_mini", (51, 16)), ("coco_mini", (80, 43)), ("coco_tiny", (80, 19))],
)
def test_real_data(real_data, name, counts):
    assert tuple(map(len, open_detection_data(real_data / name))) == counts
