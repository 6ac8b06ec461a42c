import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.data import SaliencyPairs, class_names
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, photo, save, write_saliency


def test_bright_pixels_are_salient(tmp_path):
    write_saliency(tmp_path)
    dataset = SaliencyPairs(tmp_path / "images", tmp_path / "masks")
    assert (len(dataset), dataset.num_classes, class_names(dataset)) == (3, 1, [])
    for index, stem in enumerate("abc"):
        image, target = dataset[index]
        with Image.open(tmp_path / "masks" / f"{stem}.png") as file:
            values = np.asarray(file).tolist()
        assert target.tolist() == [[[float(value >= 128) for value in row] for row in values]]
        assert (image.dtype, target.dtype) == (torch.uint8, torch.float32)
        assert dataset.image_size(index) == tuple(image.shape[1:])


def test_one_folder_for_both(tmp_path):
    write_saliency(tmp_path, "Imgs", "Imgs")
    save(tmp_path / "Imgs" / "d.jpg", photo(5))
    with pytest.raises(DataError, match=r"d.jpg: mask: expected one of the same name in .*Imgs, got none"):
        SaliencyPairs(tmp_path / "Imgs", tmp_path / "Imgs")
    dataset = SaliencyPairs(tmp_path / "Imgs", tmp_path / "Imgs", on_bad_sample="skip")
    assert list(dataset.file_names) == ["a.jpg", "b.jpg", "c.jpg"]
    assert dataset.mask_path(0) == tmp_path / "Imgs" / "a.png"


def test_zeros_and_ones(tmp_path):
    write_saliency(tmp_path)
    save(tmp_path / "masks" / "b.png", labels(0, [0, 1]))
    dataset = SaliencyPairs(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(DataError, match=r"b.png: brightness: expected 0 to 255"):
        dataset[1]


@pytest.mark.data
@pytest.mark.parametrize(
    ("images", "masks", "count"),
    [
        ("duts_tr/DUTS-TR/DUTS-TR-Image", "duts_tr/DUTS-TR/DUTS-TR-Mask", 200),
        ("ecssd/ECSSD/images", "ecssd/ECSSD/ground_truth_mask", 50),
    ],
)
def test_real_data(real_data, images, masks, count):
    dataset = SaliencyPairs(real_data / images, real_data / masks)
    assert len(dataset) == count
    for index in (0, 7):
        image, target = dataset[index]
        assert image.shape[1:] == target.shape[1:]
        assert 0.01 < target.mean() < 0.9
