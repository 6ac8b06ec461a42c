import shutil
from itertools import chain

import pytest

from ignite_imgtools.data import class_names, open_saliency_data, open_segmentation_data
from ignite_imgtools.data.dense_layouts import CAMVID_CLASSES
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, photo, save, write_drive, write_masks, write_saliency, write_voc


def names(part):
    """Names of the images of a part, subset or not."""
    indices = part.indices if hasattr(part, "indices") else range(len(part))
    whole = part.dataset if hasattr(part, "indices") else part
    return [whole.file_names[index] for index in indices]


@pytest.mark.parametrize("place", ["", "VOCdevkit/VOC2012", "VOC2012"])
def test_voc(tmp_path, place):
    root = write_voc(tmp_path / place)
    lists = root / "ImageSets" / "Segmentation"
    train_set, val_set = open_segmentation_data(tmp_path)
    assert (names(train_set), names(val_set)) == (["b.jpg", "a.jpg"], ["c.jpg"])
    assert class_names(train_set)[:2] == ["background", "aeroplane"]
    (lists / "val.txt").unlink()
    (lists / "train.txt").write_text("a\nb\nc\nd\n")
    assert sorted(chain(*map(names, open_segmentation_data(tmp_path)))) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    (lists / "train.txt").rename(lists / "trainval.txt")
    assert len(open_segmentation_data(tmp_path, "voc_segmentation", val_fraction=0.5)[1]) == 2
    (lists / "trainval.txt").rename(lists / "test.txt")
    with pytest.raises(DataError, match=r"Segmentation: expected train.txt or trainval.txt, got neither; add the list"):
        open_segmentation_data(tmp_path, "voc_segmentation")
    shutil.rmtree(root / "ImageSets")
    assert sum(map(len, open_segmentation_data(tmp_path))) == 4


def test_drive(tmp_path):
    root = write_drive(tmp_path / "DRIVE")
    for folder in (tmp_path, root):
        train_set, val_set = open_segmentation_data(folder)
        assert (names(train_set), names(val_set)) == (["21_training.tif", "22_training.tif"], ["01_test.tif"])
    # As it is handed out today, the test images have no segmentations.
    shutil.rmtree(root / "test" / "1st_manual")
    train_set, val_set = open_segmentation_data(root, "drive")
    assert sorted(names(train_set) + names(val_set)) == ["21_training.tif", "22_training.tif"]


def test_two_folders(tmp_path):
    write_masks(tmp_path / "set")
    train_set, val_set = open_segmentation_data(tmp_path, val_fraction=0.4)
    assert (len(train_set), len(val_set)) == (2, 1)
    assert class_names(val_set) == ["class_0", "class_1", "class_2"]
    for part, stems in (("train", "ab"), ("val", "cde")):
        write_masks(tmp_path / "parts", f"images/{part}", f"masks/{part}", stems)
    train_set, val_set = open_segmentation_data(tmp_path / "parts")
    assert (names(train_set), names(val_set)) == (["a.jpg", "b.jpg"], ["c.jpg", "d.jpg", "e.jpg"])
    # A class that only the validation part has is a class of both.
    save(tmp_path / "parts" / "masks" / "val" / "c.png", labels(0, [0, 3]))
    train_set, val_set = open_segmentation_data(tmp_path / "parts")
    assert len(class_names(train_set)) == len(class_names(val_set)) == 4
    (tmp_path / "parts" / "classes.txt").write_text("x\ny\nz\n")
    train_set, val_set = open_segmentation_data(tmp_path / "parts", "masks")
    assert class_names(train_set) == ["x", "y", "z"]
    with pytest.raises(DataError, match=r"c.png: class numbers: expected 0 to 2, or 255 where ignored, got 3"):
        val_set[0]


@pytest.mark.parametrize("val", ["val", "test"])
def test_camvid(tmp_path, val):
    for part, stems in (("train", "abc"), (val, "d")):
        write_masks(tmp_path / "CamVid", part, f"{part}annot", stems)
    save(tmp_path / "CamVid" / f"{val}annot" / "d.png", labels(0, [0, 10, 11]))
    (tmp_path / "CamVid" / "train.txt").write_text(
        "".join(f"/SegNet/CamVid/train/{stem}.jpg /SegNet/CamVid/trainannot/{stem}.png\n" for stem in "ca")
    )
    train_set, val_set = open_segmentation_data(tmp_path)
    assert (names(train_set), names(val_set)) == (["c.jpg", "a.jpg"], ["d.jpg"])
    assert tuple(class_names(val_set)) == CAMVID_CLASSES
    assert val_set[0][1].unique().tolist() == [0, 10, 255]
    # With names for 12, the last one is a class like others.
    (tmp_path / "CamVid" / "classes.txt").write_text("\n".join((*CAMVID_CLASSES, "unlabelled")))
    assert open_segmentation_data(tmp_path)[1][0][1].unique().tolist() == [0, 10, 11]


def test_transforms_and_seed(tmp_path):
    write_masks(tmp_path)
    options = {"train_transforms": lambda *_: "train", "val_transforms": lambda *_: "val", "val_fraction": 0.3}
    splits = set()
    for seed in range(12):
        train_set, val_set = open_segmentation_data(tmp_path, seed=seed, **options)
        assert (train_set[0], val_set[0]) == ("train", "val")
        assert sorted(names(train_set) + names(val_set)) == ["a.jpg", "b.jpg", "c.jpg"]
        assert names(open_segmentation_data(tmp_path, seed=seed, **options)[1]) == names(val_set)
        splits.update(names(val_set))
    assert splits == {"a.jpg", "b.jpg", "c.jpg"}
    write_voc(tmp_path / "voc")
    train_set, val_set = open_segmentation_data(tmp_path / "voc", **options)
    assert (train_set[0], val_set[0]) == ("train", "val")


def test_bad_samples(tmp_path):
    write_masks(tmp_path)
    (tmp_path / "masks" / "b.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"masks/b.png: cannot be read as an image .*on_bad_sample='skip'$"):
        open_segmentation_data(tmp_path)
    parts = open_segmentation_data(tmp_path, on_bad_sample="skip")
    assert sorted(chain(*map(names, parts))) == ["a.jpg", "c.jpg"]


def test_duts_and_a_folder_to_validate_on(tmp_path):
    for split, stems in (("TR", "abc"), ("TE", "de")):
        root = f"DUTS-{split}/DUTS-{split}"
        write_saliency(tmp_path / "duts", f"{root}-Image", f"{root}-Mask", stems)
    write_saliency(tmp_path / "ecssd" / "ECSSD", "images", "ground_truth_mask", "fghi")
    train_set, val_set = open_saliency_data(tmp_path / "duts")
    assert (names(train_set), names(val_set)) == (["a.jpg", "b.jpg", "c.jpg"], ["d.jpg", "e.jpg"])
    train_set, val_set = open_saliency_data(
        tmp_path / "duts",
        "saliency",
        val_data=tmp_path / "ecssd",
        train_transforms=lambda *_: "train",
        val_transforms=lambda *_: "val",
    )
    assert (names(train_set), names(val_set)) == (["a.jpg", "b.jpg", "c.jpg"], ["f.jpg", "g.jpg", "h.jpg", "i.jpg"])
    assert (train_set[0], val_set[0]) == ("train", "val")
    # Where it has a part for validation, that one is taken.
    assert names(open_saliency_data(tmp_path / "ecssd", val_data=tmp_path / "duts")[1]) == ["d.jpg", "e.jpg"]
    assert list(map(len, open_saliency_data(tmp_path / "duts" / "DUTS-TR", val_fraction=0.3))) == [2, 1]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("set/Imgs", "set/GT"),
        ("a/image", "a/mask"),
        ("MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs"),
        (".", "."),
    ],
)
def test_saliency_folders(tmp_path, images, masks):
    write_saliency(tmp_path, images, masks)
    train_set, val_set = open_saliency_data(tmp_path)
    assert sorted(names(train_set) + names(val_set)) == ["a.jpg", "b.jpg", "c.jpg"]
    assert train_set[0][1].shape == (1, 30, 40)


def test_saliency_parts(tmp_path):
    for part, stems in (("train", "ab"), ("val", "c")):
        write_saliency(tmp_path, f"images/{part}", f"masks/{part}", stems)
    assert list(map(names, open_saliency_data(tmp_path))) == [["a.jpg", "b.jpg"], ["c.jpg"]]


def test_nothing_found_says_what_was_looked_for(tmp_path):
    message = "no data set found; no SegmentationClass/ .*; no training/images/ .*; no images/ and masks/, nor train/"
    with pytest.raises(DataError, match=message):
        open_segmentation_data(tmp_path)
    with pytest.raises(DataError, match=r"no images/ and masks/ \(also image.* in \*/ or in \*/\*/; correct the path"):
        open_saliency_data(tmp_path)
    with pytest.raises(DataError, match="expected a folder with a data set, got nothing there"):
        open_saliency_data(tmp_path / "none")
    with pytest.raises(ValueError, match="data_format must be one of voc_segmentation, drive, masks, got 'saliency'"):
        open_segmentation_data(tmp_path, "saliency")
    with pytest.raises(ValueError, match="data_format must be one of saliency, got 'drive'"):
        open_saliency_data(tmp_path, "drive")


def test_more_than_one_found(tmp_path):
    write_voc(tmp_path / "voc")
    write_masks(tmp_path / "masks_of_mine")
    with pytest.raises(DataError, match="holds data sets in formats voc_segmentation and masks; choose one"):
        open_segmentation_data(tmp_path)
    write_masks(tmp_path / "others")
    with pytest.raises(DataError, match=r"several data sets: .*masks_of_mine, .*others; give the path of one"):
        open_segmentation_data(tmp_path, "masks")
    with pytest.raises(DataError, match=r"several folders of images with masks: .*masks_of_mine/images, .*; give the"):
        open_saliency_data(tmp_path)


def test_folders_of_files_that_belong_to_nothing(tmp_path):
    save(tmp_path / "images" / "a.jpg", photo(0))
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="masks: no masks found; correct the path"):
        open_segmentation_data(tmp_path)
    with pytest.raises(DataError, match="images: expected at least one image with its mask that can be used, got none"):
        open_saliency_data(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "counts"),
    [("voc2012_mini", (47, 15)), ("drive", (14, 8)), ("camvid", (20, 6)), ("labelme_voc2011", (2, 1))],
)
def test_real_segmentation_data(real_data, name, counts):
    assert tuple(map(len, open_segmentation_data(real_data / name))) == counts


@pytest.mark.data
def test_real_saliency_data(real_data):
    train_set, val_set = open_saliency_data(real_data / "duts_tr", val_data=real_data / "ecssd")
    assert (len(train_set), len(val_set)) == (200, 50)
    assert tuple(map(len, open_saliency_data(real_data / "duts_tr"))) == (160, 40)
