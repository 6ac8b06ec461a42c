import pytest
from torch.utils.data import Dataset, Subset

from ignite_imgtools.data import class_names, split_dataset
from ignite_imgtools.data.subsets import unwrap_subset


class Numbers(Dataset):
    class_names = ("__background__", "number")

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return index


def test_split_depends_on_the_seed_alone():
    first, again, other = (split_dataset(Numbers(), 0.2, seed) for seed in (0, 0, 1))
    assert (len(first[0]), len(first[1])) == (80, 20)
    assert sorted([*first[0], *first[1]]) == list(range(100))
    assert list(first[1]) == sorted(first[1])
    assert list(first[1]) == list(again[1]) != list(other[1])
    assert list(first[1])[:4] == [1, 5, 7, 14]  # the same on every machine


def test_both_parts_get_something():
    assert [len(part) for part in split_dataset(Numbers(), 0.001, 0)] == [99, 1]
    assert [len(part) for part in split_dataset(Numbers(), 0.999, 0)] == [1, 99]
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="val_fraction must lie between 0 and 1, got"):
            split_dataset(Numbers(), fraction, 0)
    with pytest.raises(ValueError, match=r"the data set: expected 2 samples or more, .* got 1; add"):
        split_dataset(Subset(Numbers(), [5]), 0.5, 0)


def test_subsets_are_looked_through():
    base = Numbers()
    inner, indices = unwrap_subset(Subset(Subset(base, [5, 6, 7]), [2, 0]))
    assert inner is base
    assert indices.tolist() == [7, 5]
    assert unwrap_subset(base) == (base, None)
    assert class_names(Subset(base, [1])) == ["__background__", "number"]
    with pytest.raises(TypeError, match="Dataset has no class_names: give it the list of the names of its labels"):
        class_names(Dataset())
