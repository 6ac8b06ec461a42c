import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from ignite_imgtools.data import VocSegmentation, class_names, image_sizes, split_dataset
from ignite_imgtools.data.voc import VOC_CLASSES
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, save, write_voc


def test_images_and_masks_in_the_order_of_the_list(tmp_path):
    dataset = VocSegmentation(write_voc(tmp_path), "train")
    assert list(dataset.file_names) == ["b.jpg", "a.jpg"]
    assert dataset.class_names == ["background", *VOC_CLASSES]
    assert dataset.num_classes == 21
    assert dataset.faults == []
    for index, stem in enumerate("ba"):
        image, target = dataset[index]
        with Image.open(tmp_path / "JPEGImages" / f"{stem}.jpg") as file:
            assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(file)).max() <= 2
        with Image.open(tmp_path / "SegmentationClass" / f"{stem}.png") as file:
            assert target.tolist() == np.asarray(file).tolist()
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(target, tv_tensors.Mask)
        assert (image.dtype, target.dtype) == (torch.uint8, torch.int64)
        assert dataset.image_size(index) == tuple(image.shape[1:]) == tuple(target.shape)
        assert dataset.image_path(index) == tmp_path / "JPEGImages" / f"{stem}.jpg"
        assert dataset.mask_path(index) == tmp_path / "SegmentationClass" / f"{stem}.png"
    assert (dataset[-1][1] == dataset[1][1]).all()
    with pytest.raises(IndexError):
        dataset[2]
    assert len(list(dataset)) == 2


def test_without_a_list_all_masks(tmp_path):
    dataset = VocSegmentation(write_voc(tmp_path), None)
    assert list(dataset.file_names) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_names_and_folder_of_masks_can_be_others(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "SegmentationClass").rename(tmp_path / "SegmentationClassAug")
    names = [f"c{number}" for number in range(30)]
    dataset = VocSegmentation(tmp_path, "val", class_names=names, masks="SegmentationClassAug")
    assert class_names(dataset) == names
    (tmp_path / "class_names.txt").write_text("\n".join(names[:21]))
    assert VocSegmentation(tmp_path, "val", masks="SegmentationClassAug").class_names == names[:21]
    (tmp_path / "class_names.txt").write_text("one\ntwo")
    dataset = VocSegmentation(tmp_path, "val", masks="SegmentationClassAug")
    with pytest.raises(DataError, match=r"c.png: class numbers: expected 0 to 1, or 255 where ignored, got 5 \("):
        dataset[0]
    with pytest.raises(ValueError, match="class_names must be 2 to 255 names"):
        VocSegmentation(tmp_path, "val", class_names=[])


def test_transforms_get_the_pair(tmp_path):
    write_voc(tmp_path)
    dataset = VocSegmentation(tmp_path, "train", transforms=lambda image, target: (image.shape, target.shape))
    assert dataset[0] == ((3, 30, 40), (30, 40))
    # What a transform writes into is nobody else's.
    dataset = VocSegmentation(tmp_path, "train", transforms=lambda image, target: (image.zero_(), target.zero_()))
    dataset[0]
    dataset.transforms = None
    assert dataset[0][1].any()


def test_it_goes_through_subsets_and_processes(tmp_path):
    dataset = VocSegmentation(write_voc(tmp_path), None)
    train_part, _ = split_dataset(dataset, 0.5, 0)
    assert class_names(train_part) == dataset.class_names
    assert image_sizes(train_part).tolist() == [[30, 40]] * 2
    again = pickle.loads(pickle.dumps(dataset))
    assert (again[1][1] == dataset[1][1]).all()


def test_what_a_list_names_must_be_there(tmp_path):
    root = write_voc(tmp_path)
    list_file = root / "ImageSets" / "Segmentation" / "train.txt"
    list_file.write_text("a\ne\nnone\na\n../a\n")
    with pytest.raises(DataError, match=r"train.txt: line 4: name: .*'a' again.* \(5 more faults: `ignite-imgtools"):
        VocSegmentation(root, "train")
    dataset = VocSegmentation(root, "train", on_bad_sample="skip")
    assert list(dataset.file_names) == ["a.jpg"]
    expected = f"expected a file of the name 'e' in {root}/SegmentationClass, got none; add it, or remove the name"
    assert str(dataset.faults[1]) == f"{list_file}: line 2: mask: {expected}"
    whats = [(fault.where, fault.what, fault.came) for fault in dataset.faults]
    assert whats == [
        ("line 4", "name", "'a' again"),
        ("line 2", "mask", "none"),
        *(("line 3", what, "none") for what in ("image", "mask")),
        *(("line 5", what, "none") for what in ("image", "mask")),
    ]
    list_file.write_text("e\n")
    with pytest.raises(DataError, match="images: expected at least one image with its mask that can be used, got none"):
        VocSegmentation(root, "train", on_bad_sample="skip")
    with pytest.raises(DataError, match=r"test.txt: list: expected UTF-8 text, got No such file"):
        VocSegmentation(root, "test")
    with pytest.raises(DataError, match=r"folder of masks: expected a folder"):
        VocSegmentation(root, "val", masks="SegmentationObject")


def test_what_changes_after_it_was_looked_at(tmp_path):
    dataset = VocSegmentation(write_voc(tmp_path), "train")
    save(dataset.mask_path(0), labels(0, [0, 1], 20, 40))
    with pytest.raises(DataError, match=r"b.png: size: expected 40 x 30 as .*b.jpg has, got 40 x 20; replace the mask"):
        dataset[0]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("voc2012_mini/VOCdevkit/VOC2012", "train", 47),
        ("voc2012_mini/VOCdevkit/VOC2012", "val", 15),
        ("labelme_voc2011/voc", None, 3),
    ],
)
def test_real_data(real_data, name, split, count):
    dataset = VocSegmentation(real_data / name, split)
    assert (len(dataset), dataset.num_classes) == (count, 21)
    image, target = dataset[0]
    assert image.shape[1:] == target.shape == dataset.image_size(0)
    assert 255 in target.unique()
