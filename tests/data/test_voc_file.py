"""What is wrong with VOC data is refused in one line, or left out with a count; nothing is read outside the folder."""

import os
import re

import pytest

from ignite_imgtools.data import VocDetection, check_dataset
from ignite_imgtools.formats import DataError
from tests.data.voc_faults import BAD_OBJECTS, BAD_XML, GOOD_BOX
from tests.data.voc_folder import voc_object, voc_xml, write_voc_folder


def refused(root, message):
    with pytest.raises(DataError) as caught:
        VocDetection(root)
    text = str(caught.value)
    assert re.search(message, text), text
    assert str(root) in text
    assert "\n" not in text
    faults = check_dataset("voc", root)
    assert len(faults) == 1
    assert re.search(message, str(faults[0])), faults


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_bad_object(tmp_path, name):
    xml, message = BAD_OBJECTS[name]
    root = write_voc_folder(tmp_path)
    (root / "Annotations" / "a.xml").write_text(voc_xml("a", voc_object("wolf", GOOD_BOX), xml))
    refused(root, rf"a\.xml: {message}")
    dataset = VocDetection(root, on_bad_sample="skip")
    assert (len(dataset), len(dataset.table.labels), len(dataset.faults)) == (2, 2, 1)


@pytest.mark.parametrize("name", BAD_XML)
def test_bad_xml(tmp_path, name):
    xml, message = BAD_XML[name]
    root = write_voc_folder(tmp_path)
    (root / "Annotations" / "a.xml").write_text(xml)
    refused(root, rf"a\.xml.*{message}")
    dataset = VocDetection(root, on_bad_sample="skip")
    assert [dataset[index][1]["image_id"] for index in range(len(dataset))] == [1]


def test_bad_names_in_the_list(tmp_path):
    root = write_voc_folder(tmp_path / "data")
    file = root / "ImageSets" / "Main" / "train.txt"
    (tmp_path / "secret.xml").write_text(voc_xml("secret"))
    for name, message in (
        ("../../secret", r"train\.txt: '\.\./\.\./secret': name: expected one inside of Annotations, got file name"),
        ("/etc/passwd", r"train\.txt: '/etc/passwd': name: expected one inside of Annotations"),
        ("x" * 300, r"annotation file: expected a file, got File name too long; correct the list"),
        ("none", r"none\.xml: annotation file: expected a file, got nothing there; restore it or take"),
        ("b", r"train\.txt: line 3: name: expected each image once, got 'b' again"),
    ):
        file.write_text(f"a\nb\n{name}\n")
        refused(root, message)
        assert len(VocDetection(root, on_bad_sample="skip")) == 2


def test_images_that_are_missing_or_outside(tmp_path):
    root = write_voc_folder(tmp_path / "data")
    image = root / "JPEGImages" / "a.jpg"
    image.rename(tmp_path / "secret.jpg")
    refused(root, r"a\.jpg: named by .*a\.xml.*: no such image file; ")
    xml = voc_xml("a").replace("a.jpg", "../../secret.jpg")
    (root / "Annotations" / "a.xml").write_text(xml)
    refused(root, r"a\.xml: filename: file name '\.\./\.\./secret\.jpg' goes up out of")
    image.symlink_to(tmp_path / "secret.jpg")
    refused(root, r"a\.xml: filename: file name 'a\.jpg' follows a link out of")
    image.unlink()
    os.mkfifo(image)
    refused(root, "not a regular file")


@pytest.mark.parametrize("on_bad_sample", ["raise", "skip"])
def test_lists_that_cannot_be_used(tmp_path, on_bad_sample):
    root = write_voc_folder(tmp_path)
    with pytest.raises(DataError, match=r"test\.txt: list of images: expected a file, got nothing there"):
        VocDetection(root, "test", on_bad_sample=on_bad_sample)
    file = root / "ImageSets" / "Main" / "train.txt"
    file.write_text("\n")
    with pytest.raises(DataError, match=r"train\.txt: images: expected at least one that can be used, got none"):
        VocDetection(root, on_bad_sample=on_bad_sample)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"train\.txt: list of images: expected UTF-8 text"):
        VocDetection(root, on_bad_sample=on_bad_sample)


def test_faults_of_another_split_are_not_this_ones(tmp_path):
    root = write_voc_folder(tmp_path)
    (root / "Annotations" / "c.xml").write_text("no xml")
    assert VocDetection(root).class_names == ["__background__", "dog", "wolf"]
    assert len(check_dataset("voc", root)) == 2  # the file, and with it nothing is left to validate with
