"""Groups of similar shape: against torchvision's own transform and the tutorials' bisection."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ignite_imgtools.data.groups import aspect_ratio_groups, image_sizes, padded_shape_groups, padded_shapes
from ignite_imgtools.formats import DataError


class Sized(Dataset[Any]):
    def __init__(self, sizes: Any):
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def image_size(self, index: int) -> tuple[int, int]:
        return tuple(self.sizes[index])

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an image was loaded for its size")


class SizedAtOnce(Sized):
    def image_sizes(self) -> Any:
        return np.asarray(self.sizes)

    def image_size(self, index: int) -> tuple[int, int]:
        raise AssertionError("sizes were asked for one by one")


def random_sizes(count: int, low: int = 60, high: int = 700) -> np.ndarray:
    return np.random.default_rng(count).integers(low, high, (count, 2))


@pytest.mark.parametrize(
    ("min_size", "max_size", "divisor"), [(800, 1333, 32), (160, 240, 32), (333, 500, 7), (65, 111, 1)]
)
def test_padded_shapes_are_those_of_torchvision(min_size: int, max_size: int, divisor: int) -> None:
    transform = GeneralizedRCNNTransform(min_size, max_size, [0.0], [1.0], size_divisible=divisor).eval()
    sizes = random_sizes(20 if min_size == 800 else 100, 20, 900)
    shapes = [transform([torch.zeros(1, *size)])[0].tensors.shape[2:] for size in sizes.tolist()]
    assert padded_shapes(sizes, min_size, max_size, divisor).tolist() == [list(shape) for shape in shapes]


def test_a_group_is_one_padded_shape() -> None:
    sizes = random_sizes(500)
    shapes, groups = padded_shapes(sizes), padded_shape_groups(sizes)
    assert set(groups) == set(range(groups.max() + 1))
    seen: dict[int, tuple[int, ...]] = {}
    for shape, group in zip(map(tuple, shapes.tolist()), groups.tolist(), strict=True):
        assert seen.setdefault(group, shape) == shape
    assert len(set(seen.values())) == len(seen)
    assert [seen[group] for group in range(len(seen))] == sorted(seen.values())


@pytest.mark.parametrize("bins", [0, 1, 3, 5])
def test_aspect_ratios_fall_into_the_tutorials_bins(bins: int) -> None:
    sizes = np.concatenate([random_sizes(400), [[100, 100], [100, 200], [200, 100], [1, 1000], [1000, 1]]])
    edges = (2 ** np.linspace(-1, 1, 2 * bins + 1)).tolist() if bins else [1.0]
    expected = [bisect_right(edges, width / height) for height, width in sizes.tolist()]
    groups = aspect_ratio_groups(sizes, bins)
    assert groups.tolist() == expected
    assert {0, 2 * bins + 1} <= set(expected) <= set(range(2 * bins + 2))


def test_sizes_come_without_loading() -> None:
    sizes = random_sizes(20)
    assert (image_sizes(Sized(sizes)) == sizes).all()
    assert (image_sizes(SizedAtOnce(sizes)) == sizes).all()
    part = Subset(Subset(SizedAtOnce(sizes), [3, 1, 8]), [2, 0])
    assert image_sizes(part).tolist() == sizes[[8, 3]].tolist()
    both = ConcatDataset([part, Sized(sizes.tolist())])
    assert image_sizes(both).tolist() == sizes[[8, 3, *range(20)]].tolist()
    assert image_sizes(Sized([])).shape == (0, 2)


def test_groups_of_a_dataset_are_those_of_its_sizes() -> None:
    sizes = random_sizes(30)
    for given in (sizes.tolist(), torch.from_numpy(sizes), Sized(sizes)):
        assert (padded_shape_groups(given) == padded_shape_groups(sizes)).all()
        assert (aspect_ratio_groups(given) == aspect_ratio_groups(sizes)).all()
    assert padded_shape_groups([]).shape == aspect_ratio_groups([]).shape == (0,)


def test_what_is_wrong_is_said() -> None:
    class Unsized(Dataset[Any]):
        pass

    with pytest.raises(TypeError, match=r"Unsized has no method image_size\(index\)"):
        image_sizes(Subset(Unsized(), [0]))
    with pytest.raises(DataError, match=r"image 1: .* at least 1 pixel, got 0 x 7 \(2 such images\)"):
        padded_shapes([(5, 5), (0, 7), (3, -1)])
    with pytest.raises(ValueError, match=r"integers \[N, 2\]"):
        padded_shapes([(5, 5, 3)])
    with pytest.raises(ValueError, match=r"integers \[N, 2\]"):
        padded_shapes(np.ones((2, 2)))
    with pytest.raises(ValueError, match="bins must be 0 or more, got -1"):
        aspect_ratio_groups([(1, 1)], -1)
    with pytest.raises(ValueError, match="divisor must be at least 1, got 0"):
        padded_shapes([(1, 1)], divisor=0)
