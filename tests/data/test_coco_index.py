import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import Dataset, Subset

from ignite_imgtools.data import CocoDetection, VocDetection, coco_index
from ignite_imgtools.formats import DataError
from tests.data.coco_folder import write_coco_folder
from tests.data.voc_folder import write_voc_folder


@pytest.fixture
def dataset(tmp_path):
    file = write_coco_folder(tmp_path)
    return CocoDetection(tmp_path / "train", file)


def test_categories_are_the_labels(dataset, capsys):
    coco = coco_index(dataset)
    assert capsys.readouterr() == ("", "")
    assert isinstance(coco, COCO)
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert coco.getImgIds() == [1, 2, 3]
    assert coco.loadImgs(3) == [{"id": 3, "file_name": "3.jpg", "height": 30, "width": 40}]
    assert sorted(coco.anns) == [1, 2, 3, 4]
    expected = {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 20, 15, 15], "area": 225, "iscrowd": 0}
    assert coco.anns[2] == expected  # the box of the file, not clipped
    assert coco.anns[3]["segmentation"] == [[1, 2, 11, 2, 11, 10, 1, 10]]
    assert coco.anns[4]["iscrowd"] == 1
    assert mask.area(coco.annToRLE(coco.anns[4])) == 150


def test_equals_an_index_created_by_pycocotools(dataset, capsys):
    coco, created = coco_index(dataset), COCO()
    created.dataset = copy.deepcopy(coco.dataset)
    created.createIndex()
    for name in ("anns", "cats", "imgs", "imgToAnns", "catToImgs"):
        assert getattr(coco, name) == getattr(created, name), name


def test_no_image_is_read(dataset, monkeypatch):
    monkeypatch.setattr(CocoDetection, "__getitem__", None)
    coco_index(dataset)


def test_is_made_once(dataset):
    subset = Subset(dataset, [0])
    assert coco_index(dataset) is coco_index(dataset)
    assert coco_index(subset) is coco_index(subset)
    assert coco_index(subset) is not coco_index(dataset)
    gone = weakref.ref(coco_index(subset))
    del subset
    gc.collect()
    assert gone() is None


def test_subsets_may_be_nested(dataset):
    coco = coco_index(Subset(Subset(dataset, [2, 0]), [1]))
    assert coco.getImgIds() == [1]
    assert [annotation["bbox"][0] for annotation in coco.anns.values()] == [5.5, 30]


def test_difficult_objects_are_crowds(tmp_path):
    root = write_voc_folder(tmp_path)
    crowds = [annotation["iscrowd"] for annotation in coco_index(VocDetection(root)).anns.values()]
    assert crowds == [0, 1, 0]
    assert not any(ann["iscrowd"] for ann in coco_index(VocDetection(root, difficult="keep")).anns.values())


class OwnDataset(Dataset):
    class_names = ("__background__", "thing", "other")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise AssertionError("decoded an image")

    def image_size(self, index):
        return 20, 10

    def annotations(self, index):
        masks = torch.zeros(index, 20, 10, dtype=torch.uint8)
        masks[:, 2:4, 1:3] = 1
        return {
            "image_id": 10 * index,
            "boxes": torch.tensor([[1.0, 2, 3, 4]] * index),
            "labels": torch.full((index,), 2),
            "masks": masks,
            "keypoints": torch.tensor([[[1.0, 2, 2], [0, 0, 0]]] * index),
        }


def test_own_data_sets():
    coco = coco_index(OwnDataset())
    assert coco.getImgIds() == [0, 10, 20]
    assert [ann["image_id"] for ann in coco.anns.values()] == [10, 20, 20]
    first = coco.anns[1]
    assert (first["bbox"], first["area"], first["category_id"], first["iscrowd"]) == ([1, 2, 2, 2], 4, 2, 0)
    assert (first["keypoints"], first["num_keypoints"]) == ([1, 2, 2, 0, 0, 0], 1)
    assert coco.annToRLE(first)["size"] == [20, 10]
    assert [category["name"] for category in coco.dataset["categories"]] == ["thing", "other"]
    assert coco_index(Subset(OwnDataset(), [1])).getImgIds() == [10]


def test_own_data_sets_without_what_is_needed():
    class Bare(Dataset):
        def __len__(self):
            return 1

    with pytest.raises(TypeError, match=r"coco_index needs Bare.annotations\(index\), which it does not have: give it"):
        coco_index(Bare())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"Wrong.annotations\(1\): the target has no 'labels', only \['boxes', 'image_id'"),
        ({"labels": torch.tensor([2, 2])}, "one label for each of 1 boxes is needed, got 2"),
        ({"boxes": torch.tensor([[5.0, 5, 2, 3]])}, r"boxes must be xyxy in pixels, .* got \[5.0, 5.0, 2.0, 3.0\]"),
        ({"image_id": 0}, "image_id 0 is that of sample 0 too: give each image an id of its own"),
    ],
)
def test_own_data_sets_whose_targets_are_wrong(changes, message):
    class Wrong(OwnDataset):
        def annotations(self, index):
            target = super().annotations(index) | (changes if index == 1 else {})
            return {key: value for key, value in target.items() if value is not None}

    with pytest.raises(DataError, match=message):
        coco_index(Wrong())


def test_labels_without_a_name(monkeypatch):
    monkeypatch.setattr(OwnDataset, "class_names", ("__background__", "thing"))
    with pytest.raises(ValueError, match="label 2 has no name: class_names has 2"):
        coco_index(OwnDataset())
    monkeypatch.delattr(OwnDataset, "class_names")
    assert coco_index(OwnDataset()).cats == {2: {"id": 2, "name": "2"}}


def perfect_ap(coco, capsys):
    """AP of detections that are the truth itself, from the reference implementation."""
    truth = [annotation for annotation in coco.anns.values() if not annotation["iscrowd"]]
    results = coco.loadRes(
        [{key: ann[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for ann in truth]
    )
    evaluation = COCOeval(coco, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    return evaluation.stats[0]


def test_an_annotation_id_of_zero_costs_nothing(tmp_path, capsys):
    """pycocotools takes id 0 for no match, so that perfect detections would not be."""

    def from_zero(content):
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = number

    file = write_coco_folder(tmp_path, from_zero)
    coco = coco_index(CocoDetection(tmp_path / "train", file))
    assert perfect_ap(coco, capsys) == 1


@pytest.mark.data
def test_real_data_evaluate_as_the_file_does(real_data, capsys):
    """The same areas, boxes, crowds and images as pycocotools has them from the file."""
    folder = real_data / "coco_mini"
    file = folder / "annotations" / "instances_val2017.json"
    dataset = CocoDetection(folder / "val2017", file)
    coco, reference = coco_index(dataset), COCO(file)
    assert sorted(coco.imgs) == sorted(reference.imgs)
    for image_id in coco.imgs:
        pairs = zip(coco.imgToAnns[image_id], reference.imgToAnns[image_id], strict=True)
        for annotation, expected in pairs:
            assert dataset.category_ids[annotation["category_id"]] == expected["category_id"]
            assert all(annotation[key] == expected[key] for key in ("bbox", "area", "iscrowd"))
            if not expected["iscrowd"]:
                assert annotation["segmentation"] == expected["segmentation"]
    names = [category["name"] for category in coco.cats.values()]
    assert names == [reference.cats[id_]["name"] for id_ in sorted(reference.cats)]


class PennFudan(Dataset):
    """Pedestrians, as the torchvision tutorial on detection reads them: boxes around the regions of a mask."""

    class_names = ("__background__", "pedestrian")

    def __init__(self, folder):
        self.masks = sorted((folder / "PedMasks").iterdir())

    def __len__(self):
        return len(self.masks)

    def image_size(self, index):
        with Image.open(self.masks[index]) as image:
            return image.height, image.width

    def annotations(self, index):
        with Image.open(self.masks[index]) as image:
            regions = torch.from_numpy(np.array(image))
        masks = regions == torch.arange(1, int(regions.max()) + 1)[:, None, None]
        spans = [[torch.nonzero(region.any(axis))[[0, -1], 0] for axis in (0, 1)] for region in masks]
        boxes = torch.stack([torch.stack((x[0], y[0], x[1] + 1, y[1] + 1)) for x, y in spans]).float()
        return {
            "image_id": index,
            "boxes": boxes,
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "area": masks.sum((1, 2)).float(),
            "masks": masks.to(torch.uint8),
        }


@pytest.mark.data
def test_a_real_data_set_of_ones_own(real_data, capsys):
    dataset = PennFudan(real_data / "penn_fudan" / "PennFudanPed")
    coco = coco_index(dataset)
    assert (len(coco.imgs), len(coco.anns)) == (20, 38)
    assert perfect_ap(coco, capsys) == 1
