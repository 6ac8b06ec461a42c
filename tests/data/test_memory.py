"""Loader workers share the annotations: what belongs to each of them is no Python object."""

import gc
import json
import sys

import numpy as np

from ignite_imgtools.data import CocoDetection
from tests.data.coco_folder import annotation

_IMAGES = 20


def write(folder, annotations):
    folder.mkdir()
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(_IMAGES)],
        "annotations": [
            annotation(i, i % _IMAGES, 1, [1, 2, 10, 8.5], segmentation=[[1, 2, 11, 2, 11, 10 + i % 9]])
            for i in range(annotations)
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def blocks_of(file):
    """How many blocks of Python's allocator the data set holds."""
    gc.collect()
    before = sys.getallocatedblocks()
    dataset = CocoDetection(file.parent, file, masks=True, check_images=False)
    gc.collect()
    blocks = sys.getallocatedblocks() - before
    assert len(dataset) == _IMAGES
    return blocks


def test_a_data_set_of_more_annotations_has_no_more_objects(tmp_path):
    small, large = write(tmp_path / "small", 100), write(tmp_path / "large", 5_000)
    blocks_of(small)  # what the first use leaves behind
    few, many = blocks_of(small), blocks_of(large)
    assert abs(many - few) < 200  # an object of each annotation would make 4,900


def test_reading_annotations_leaves_none_behind(tmp_path):
    dataset = CocoDetection(tmp_path / "a", write(tmp_path / "a", 2_000), masks=True, check_images=False)

    def read_all():
        for index in range(len(dataset)):
            dataset.annotations(index)
        gc.collect()
        return sys.getallocatedblocks()

    counts = [read_all() for _ in range(4)]
    assert abs(np.diff(counts)[1:]).max() < 200
