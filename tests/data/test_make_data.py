import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ignite_imgtools.data import CocoDetection, VocDetection, check_dataset, make_data, open_detection_data
from ignite_imgtools.data.check import check_and_report
from ignite_imgtools.data.make_data import FORMATS
from ignite_imgtools.data.shapes import CLASSES


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {name: make_data(name, folder / name, num_train=12, num_val=8, seed=5, image_size=96) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_seed_gives_the_same_bytes(made, tmp_path, name):
    again = make_data(name, tmp_path / "again", num_train=12, num_val=8, seed=5, image_size=96)
    assert digests(again) == digests(made[name])
    other = make_data(name, tmp_path / "other", num_train=1, num_val=1, seed=6, image_size=96)
    of_any_seed = {digest for file, digest in digests(other).items() if file.endswith(("classes.txt", "data.yaml"))}
    assert set(digests(other).values()) & set(digests(made[name]).values()) == of_any_seed


@pytest.mark.parametrize("name", FORMATS)
def test_parts_do_not_depend_on_each_others_size(made, tmp_path, name):
    alone = make_data(name, tmp_path / "alone", num_train=1, num_val=8, seed=5, image_size=96)
    val_part = {"drive": "test", "saliency": "DUTS-TE", "pts": "testset"}.get(name, "val")
    val = {file: digest for file, digest in digests(made[name]).items() if val_part in file and "trainval" not in file}
    assert len(val) >= 8
    assert val.items() <= digests(alone).items()


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_what_is_written_can_be_used(made, name):
    assert check_dataset(name, made[name]) == []
    train_set, val_set = open_detection_data(made[name])
    assert (len(train_set), len(val_set)) == (12, 8)
    assert sorted(train_set.class_names[1:]) == sorted(CLASSES)
    image, target = val_set[3]
    assert tuple(image.shape[1:]) == val_set.image_size(3)
    assert len(target["boxes"]) > 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_check_says_at_how_many_images_it_looked(made, name):
    assert check_and_report(name, made[name]) == (True, "no faults found; 20 images looked at")


def test_formats_tell_the_same(made):
    coco = CocoDetection(made["coco"] / "val", made["coco"] / "annotations" / "instances_val.json", crowd="keep")
    root = made["voc"] / "VOCdevkit" / "VOC2012"
    voc = VocDetection(root, "val", class_names=CLASSES)
    assert len(coco) == len(voc)
    assert coco.table.labels.tolist() == voc.table.labels.tolist()
    assert coco.table.iscrowd.tolist() == voc.table.iscrowd.tolist()
    # VOC's boxes: first and last pixel, counted from 1.
    np.testing.assert_array_equal(
        coco.table.boxes_xywh - voc.table.boxes_xywh, [[-1, -1, 1, 1]] * len(voc.table.labels)
    )
    for index in range(len(coco)):
        assert (coco[index][0] == voc[index][0]).all()


def test_coco_has_masks_keypoints_and_crowds(made):
    folder = made["coco"]
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    crowds = [annotation for annotation in content["annotations"] if annotation["iscrowd"]]
    assert crowds
    assert all(isinstance(annotation["segmentation"]["counts"], list) for annotation in crowds)
    assert [annotation["id"] for annotation in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )

    dataset = CocoDetection(folder / "train", file, masks=True, keypoints=True, crowd="keep")
    for index in range(len(dataset)):
        target = dataset.annotations(index)
        assert target["masks"].sum((1, 2)).tolist() == target["area"].tolist()
        for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
            assert mask[box[1] : box[3], box[0] : box[2]].sum() == mask.sum()
        assert target["keypoints"].shape == (len(target["labels"]), 4, 3)


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    make_data("coco", folder, num_train=1, num_val=0, image_size=64)
    before = digests(folder)
    assert set(before) == {"annotations/instances_train.json", "train/000001.jpg"}
    with pytest.raises(FileExistsError, match="data holds something already: give a new or an empty folder"):
        make_data("voc", folder, num_train=1, num_val=0)
    assert digests(folder) == before
    with pytest.raises(FileExistsError, match="holds something already"):
        make_data("voc", folder / "train" / "000001.jpg")


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def break_off(folder, *_):
        (folder / "something").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "coco", break_off)
    with pytest.raises(KeyboardInterrupt):
        make_data("coco", tmp_path / "new" / "data")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_format": "bmp"}, "format must be one of coco, voc, .*, got 'bmp'"),
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"num_val": -1}, "num_val must be at least 0, got -1"),
        ({"image_size": 20}, "image_size must be at least 64, got 20"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_data(**{"data_format": "coco", "directory": tmp_path / "data"} | arguments)
    assert not (tmp_path / "data").exists()
