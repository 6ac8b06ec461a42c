from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import CenterCrop, Compose, Resize, v2

from ignite_imgtools.data.transforms import classification_eval, classification_train


def _image(height: int = 40, width: int = 56) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8)))


def test_training_is_torchvisions_crop_and_flip() -> None:
    image, label = _image(), torch.tensor(3)
    before = image.clone()
    transform = classification_train(24, scale=(0.2, 0.9), hflip=1.0)
    torch.manual_seed(5)
    found, same = transform(image, label)
    torch.manual_seed(5)
    expected = v2.RandomResizedCrop(24, (0.2, 0.9), antialias=True)(before).flip(-1)
    assert torch.equal(found, expected)
    assert (found.shape, found.dtype) == ((3, 24, 24), torch.uint8)
    assert found.is_contiguous()
    assert same is label
    assert torch.equal(image, before)
    torch.manual_seed(6)
    assert not torch.equal(transform(image, label)[0], expected)


def test_evaluation_shows_the_middle_as_the_classic_transforms_do() -> None:
    pixels = _image(50, 70)
    found, _ = classification_eval(24, 32)(pixels, 0)
    photo = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    expected = np.asarray(Compose([Resize(32), CenterCrop(24)])(photo)).astype(int)
    assert found.shape == (3, 24, 24)
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 1
    again, _ = classification_eval(24, 32)(photo, 0)
    assert torch.equal(again, found)


def test_a_strip_does_not_take_memory_without_bound() -> None:
    strip = tv_tensors.Image(torch.zeros(3, 1, 200_000, dtype=torch.uint8))
    strip[:, :, 100_000:] = 255
    found, _ = classification_eval(224, 256)(strip, 0)
    assert found.shape == (3, 224, 224)
    assert found[0, 0, 0] < 20
    assert found[0, 0, -1] > 235


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: classification_train(0), "size must be at least 1 pixel, got 0"),
        (lambda: classification_train(8, scale=(0.5, 0.1)), "scale must be two numbers above 0, the smaller one first"),
        (lambda: classification_train(8, scale=(0.5, 1.1)), "scale must be two numbers"),
        (lambda: classification_train(8, hflip=1.5), "hflip must be a probability from 0 to 1, got 1.5"),
        (lambda: classification_eval(9, 8), "resize must be at least size, 9, so that the square lies in the image"),
    ],
)
def test_bad_arguments(create: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create()  # type: ignore[operator]
