from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from ignite_imgtools.engines.dense_prediction import flipped, resized, sliding_window, window_starts
from tests.engines.tiny_segmenters import TinySegmenter


def _predict(images):
    return TinySegmenter().eval()(images)["out"].detach()


def test_flipping_gives_the_mean_of_both_answers():
    images = torch.rand(1, 3, 20, 24)
    expected = (_predict(images) + _predict(images.flip(3)).flip(3)) / 2
    torch.testing.assert_close(flipped(_predict)(images), expected)
    both = flipped(_predict)
    torch.testing.assert_close(both(images.flip(3)).flip(3), both(images))


@pytest.mark.parametrize("length", [5, 16, 17, 31, 32, 33, 50, 101])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.5, 0.9])
def test_windows_cover_everything_and_overlap_enough(length, overlap):
    starts = window_starts(length, 16, overlap)
    covered = {pixel for start in starts for pixel in range(start, min(start + 16, length))}
    assert covered == set(range(length))
    assert starts[-1] == max(0, length - 16)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0 < gap <= max(1, 16 * (1 - overlap)) + 1 for gap in gaps)  # rounded to whole pixels
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_logits_are_averaged_where_windows_overlap():
    images = torch.rand(1, 3, 20, 37)
    total, count = torch.zeros(1, 3, 20, 37), torch.zeros(20, 37)
    for top in window_starts(20, 16, 0.5):
        for left in window_starts(37, 16, 0.5):
            total[:, :, top : top + 16, left : left + 16] += _predict(images[:, :, top : top + 16, left : left + 16])
            count[top : top + 16, left : left + 16] += 1
    assert count.min() == 1
    assert count.max() > 1
    torch.testing.assert_close(sliding_window(_predict, 16, 0.5)(images), total / count)


def test_an_image_no_larger_than_the_window_is_not_cut():
    images = torch.rand(1, 3, 16, 12)
    for window in (16, 30, (16, 12)):
        torch.testing.assert_close(sliding_window(_predict, window)(images), _predict(images), rtol=0, atol=0)
    # Larger in one direction: windows as high as the image.
    shapes = []
    sliding_window(lambda part: shapes.append(part.shape) or _predict(part), 14)(images)
    assert set(shapes) == {(1, 3, 14, 12)}


def test_a_model_without_surroundings_says_the_same_in_windows():
    weight = torch.rand(4, 3, 1, 1)
    images = torch.rand(2, 3, 25, 31)
    expected = functional.conv2d(images, weight)
    windows = sliding_window(lambda part: functional.conv2d(part, weight), (8, 11), 0.4)
    torch.testing.assert_close(windows(images), expected)


@pytest.mark.parametrize(
    ("resize", "shape"),
    [(10, (10, 15)), ((8, 9), (8, 9)), (20, (20, 30)), (7, (7, 10))],
)
def test_the_model_sees_the_size_that_was_asked_for(resize, shape):
    seen = []

    def predict(images):
        seen.append(tuple(images.shape[2:]))
        return _predict(images)

    images = torch.rand(1, 3, 20, 30)
    assert resized(predict, resize)(images).shape == (1, 3, 20, 30)
    assert resized(predict, resize, back=False)(images).shape == (1, 3, *shape)
    assert seen == [shape, shape]
    tall = resized(predict, resize, back=False)(images.transpose(2, 3)).shape[2:]
    assert tall == (shape if isinstance(resize, tuple) else shape[::-1])


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="window must be at least 1 pixel, got 0 x 4"):
        sliding_window(_predict, (0, 4))
    with pytest.raises(ValueError, match=r"overlap must be in 0\.\.1, below 1, got 1"):
        sliding_window(_predict, 8, 1)
    with pytest.raises(ValueError, match="resize must be at least 1 pixel, got 0"):
        resized(_predict, 0)
