import json
import shutil

import pytest

from ignite_imgtools.data import check_dataset, format_report
from ignite_imgtools.data.check import FORMATS
from ignite_imgtools.data.faults import Fault
from ignite_imgtools.formats import DataError
from tests.data.coco_folder import coco_content, write_coco_folder
from tests.data.voc_folder import voc_object, voc_xml, write_voc_folder


def test_both_parts_are_checked(tmp_path):
    root = write_voc_folder(tmp_path)
    for stem in "ac":
        (root / "Annotations" / f"{stem}.xml").write_text(
            voc_xml(stem, voc_object("dog", (1, 1, 1, 1)), voc_object("", (1, 1, 9, 9)))
        )
    files = [fault.file for fault in check_dataset("voc", tmp_path)]
    assert files == [str(root / "Annotations" / f"{stem}.xml") for stem in "aacc"]


def test_parts_with_other_classes(tmp_path):
    write_coco_folder(tmp_path)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    content = coco_content()
    content["categories"].reverse()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    assert check_dataset("coco", tmp_path) == []
    content["categories"][0]["name"] = "kitten"
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (fault,) = check_dataset("coco", tmp_path)
    assert "instances_val.json: categories: expected the 2 classes of" in str(fault)
    assert "got kitten, dog; list the same in both" in str(fault)


def test_pixels_are_not_decoded(tmp_path):
    """What only a decoder finds is found when the image is read, not here."""
    write_coco_folder(tmp_path)
    path = tmp_path / "train" / "1.jpg"
    content = path.read_bytes()
    scan = content.index(b"\xff\xda") + 12
    path.write_bytes(content[:scan] + b"\0" * (len(content) - scan - 2) + b"\xff\xd9")
    assert check_dataset("coco", tmp_path) == []


def test_no_data_set_to_check(tmp_path):
    with pytest.raises(DataError, match=r"no annotations/instances_train\*.json as COCO has it"):
        check_dataset("coco", tmp_path)
    with pytest.raises(ValueError, match=r"format must be one of coco, voc, .*, got 'bmp'"):
        check_dataset("bmp", tmp_path)


def test_report():
    assert format_report([]) == "no faults found"
    one = Fault("a.json", "annotation 3", "bbox", "4 numbers", "[1]", "correct it")
    two = Fault("b\nc.jpg", "", "the image breaks off", advice="restore it")
    assert (
        format_report([one]) == "a.json: annotation 3: bbox: expected 4 numbers, got [1]; correct it\n1 fault in 1 file"
    )
    assert format_report([one, one, two]).splitlines()[1:] == [
        "a.json: annotation 3: bbox: expected 4 numbers, got [1]; correct it",
        "b c.jpg: the image breaks off; restore it",
        "3 faults in 2 files",
    ]
    assert format_report([], 1) == "no faults found; 1 image looked at"
    assert format_report([one], 1200).endswith("\n1 fault in 1 file; 1,200 images looked at")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "data_format"),
    [("bccd_voc/BCCD", "voc"), ("voc2012_mini", "voc"), ("coco_mini", "coco"), ("coco_tiny", "coco")],
)
def test_real_data_have_no_faults(real_data, name, data_format):
    assert data_format in FORMATS
    assert check_dataset(data_format, real_data / name) == []
