from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ignite_imgtools.data import VocDetection
from ignite_imgtools.data.voc import VOC_CLASSES
from ignite_imgtools.formats import DataError, check_detection_batch
from tests.data.voc_folder import voc_object, voc_xml, write_voc_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc_folder(tmp_path_factory.mktemp("voc"))


def test_samples_are_in_the_formats(folder):
    dataset = VocDetection(folder)
    samples = [dataset[index] for index in range(len(dataset))]
    check_detection_batch([image for image, _ in samples], [target for _, target in samples])
    image, target = samples[1]
    assert isinstance(image, tv_tensors.Image)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 30, 40))
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].tolist() == [[10.5, 10, 40, 30]]  # the numbers of the file
    assert target["area"].tolist() == [29.5 * 20]
    assert target["image_id"] == 1


def test_every_split_gets_the_same_labels(folder):
    """From all annotations, also where a class is in one split alone."""
    names = ["__background__", "dog", "wolf", "zebra"]
    assert VocDetection(folder, "train").class_names == VocDetection(folder, "val").class_names == names
    assert VocDetection(folder, "val")[0][1]["labels"].tolist() == [3]


def test_class_names_can_be_given(folder):
    for names in (["zebra", "wolf", "dog"], ["__background__", "zebra", "wolf", "dog"]):
        dataset = VocDetection(folder, "val", class_names=names)
        assert dataset.class_names == ["__background__", "zebra", "wolf", "dog"]
        assert dataset[0][1]["labels"].tolist() == [1]
    with pytest.raises(DataError, match=r"c\.xml: object 1: name: expected a class \(dog, wolf\), got 'zebra'"):
        VocDetection(folder, "val", class_names=["dog", "wolf"])


def test_classes_of_voc_keep_their_order(tmp_path):
    root = write_voc_folder(tmp_path)
    for stem in "abc":
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(stem, voc_object("cat", (1, 1, 9, 9))))
    dataset = VocDetection(root)
    assert dataset.class_names == ["__background__", *VOC_CLASSES]
    assert dataset[0][1]["labels"].tolist() == [8]


def test_difficult_objects(folder):
    ignored, kept = VocDetection(folder), VocDetection(folder, difficult="keep")
    assert ignored[0][1]["labels"].tolist() == [2]
    assert ignored.table.iscrowd.tolist() == [False, True, False]
    assert kept[0][1]["labels"].tolist() == [2, 1]
    assert not kept.table.iscrowd.any()
    with pytest.raises(ValueError, match="difficult must be 'ignore' or 'keep', got 'drop'"):
        VocDetection(folder, difficult="drop")


def test_targets_are_fresh_each_time(folder):
    dataset = VocDetection(folder, transforms=v2.RandomHorizontalFlip(p=1))
    first, second = dataset[0][1]["boxes"], dataset[0][1]["boxes"]
    assert first.tolist() == second.tolist() == [[29, 2, 39, 12]]
    first.zero_()
    assert dataset[0][1]["boxes"].tolist() == second.tolist()


def test_parts_of_objects_are_no_objects(tmp_path):
    root = write_voc_folder(tmp_path)
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    (root / "Annotations" / "a.xml").write_text(voc_xml("a", voc_object("dog", (1, 2, 11, 12), part)))
    dataset = VocDetection(root)
    assert "head" not in dataset.class_names
    assert dataset[0][1]["boxes"].tolist() == [[1, 2, 11, 12]]


def test_images_are_found_by_the_name_of_the_annotation(tmp_path):
    """The name inside is often of old; it counts where there is no image of the annotation's name."""
    root = write_voc_folder(tmp_path)
    (root / "Annotations" / "a.xml").write_text(voc_xml("old name", voc_object("dog", (1, 2, 11, 12))))
    (root / "JPEGImages" / "b.jpg").rename(root / "JPEGImages" / "other.jpg")
    (root / "Annotations" / "b.xml").write_text(voc_xml("other"))
    dataset = VocDetection(root)
    assert [dataset.image_path(index).name for index in range(2)] == ["a.jpg", "other.jpg"]


def test_lists_of_one_class_have_a_second_column(tmp_path):
    root = write_voc_folder(tmp_path)
    (root / "ImageSets" / "Main" / "dog_train.txt").write_text("\ufeffa -1\r\n\r\nb  1\r\n", encoding="utf-8")
    assert [VocDetection(root, "dog_train").image_path(index).stem for index in range(2)] == ["a", "b"]


@pytest.mark.parametrize("size", ["", "<width>0</width><height>0</height>", "<width/><height/>"])
def test_sizes_missing_from_the_file_are_read_from_the_images(tmp_path, size):
    root = write_voc_folder(tmp_path)
    (root / "Annotations" / "a.xml").write_text(voc_xml("a", voc_object("dog", (1, 2, 11, 12)), size=size))
    for check_images in (True, False):
        assert VocDetection(root, check_images=check_images).image_size(0) == (30, 40)


def test_drop_empty(tmp_path):
    root = write_voc_folder(tmp_path)
    (root / "Annotations" / "a.xml").write_text(
        voc_xml("a", voc_object("dog", (1, 2, 9, 9), "<difficult>1</difficult>"))
    )
    dataset = VocDetection(root, drop_empty=True)
    assert [dataset[index][1]["image_id"] for index in range(len(dataset))] == [1]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "num_images", "objects"),
    [
        ("bccd_voc/BCCD", "train", 38, {"RBC": 445, "WBC": 39, "Platelets": 40}),
        ("voc2012_mini/VOCdevkit/VOC2012", "trainval", 67, {"person": 64, "aeroplane": 15, "tvmonitor": 4}),
    ],
)
def test_real_data(real_data, name, split, num_images, objects):
    dataset = VocDetection(real_data / name, split)
    assert len(dataset) == num_images
    labels = [dataset.class_names[label] for label in dataset.table.labels.tolist()]
    assert {name: labels.count(name) for name in objects} == objects
    image, target = dataset[0]
    assert tuple(image.shape[1:]) == dataset.image_size(0)
    assert len(target["boxes"]) > 0


@pytest.mark.data
def test_all_blood_cells(real_data):
    root = real_data / "bccd_voc" / "BCCD"
    parts = [VocDetection(root, split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 60
    assert sum(len(part.table.labels) for part in parts) == 787


@pytest.mark.data
def test_difficult_objects_of_real_data(real_data):
    dataset = VocDetection(real_data / "voc2012_mini" / "VOCdevkit" / "VOC2012", "trainval")
    assert len(dataset.table.labels) == 185
    assert dataset.table.iscrowd.sum() == 21
    assert sum(len(dataset.annotations(index)["labels"]) for index in range(len(dataset))) == 164
