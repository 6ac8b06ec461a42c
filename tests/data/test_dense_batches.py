import pytest
import torch
from torchvision import tv_tensors

from ignite_imgtools.data import collate_dense, collate_dense_lists, create_loader, open_segmentation_data
from ignite_imgtools.data.transforms import segmentation_train
from tests.data.dense_folders import write_voc


def sample(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    return tv_tensors.Image(image), tv_tensors.Mask(torch.randint(5, (height, width), generator=generator))


def test_training_batches_are_stacked():
    samples = [sample(4, 6, seed) for seed in range(3)]
    images, targets = collate_dense(samples)
    assert (type(images), type(targets)) == (torch.Tensor, torch.Tensor)
    assert (images.dtype, targets.dtype) == (torch.uint8, torch.int64)
    for index, (image, target) in enumerate(samples):
        assert (images[index] == image).all()
        assert (targets[index] == target).all()
    _, targets = collate_dense([(image, target[None].float()) for image, target in samples])
    assert (targets.shape, targets.dtype) == ((3, 1, 4, 6), torch.float32)


def test_evaluation_batches_keep_sizes():
    samples = [sample(4, 6), sample(5, 3)]
    images, targets = collate_dense_lists(samples)
    assert [tuple(image.shape) for image in images] == [(3, 4, 6), (3, 5, 3)]
    assert [tuple(target.shape) for target in targets] == [(4, 6), (5, 3)]
    assert {type(tensor) for tensor in (*images, *targets)} == {torch.Tensor}


def test_no_samples():
    assert collate_dense([]) == ([], [])
    assert collate_dense_lists([]) == ([], [])


def test_sizes_that_differ():
    with pytest.raises(ValueError, match=r"one size \(height x width\), got 4 x 6, 5 x 3: crop them all to one size"):
        collate_dense([sample(4, 6), sample(5, 3)])
    with pytest.raises(ValueError, match="got 4 x 6, 5 x 6"):
        collate_dense([(sample(4, 6)[0], sample(5, 6)[1])])


def test_workers_make_no_difference(tmp_path):
    """Same pixels whoever loads them, in training and in evaluation; a bad mask is left out with a count."""
    train_set, val_set = open_segmentation_data(write_voc(tmp_path), train_transforms=segmentation_train((20, 40), 24))
    train_set.mask_path(1).write_bytes(b"damaged")
    batches = []
    for workers in (0, 1):
        options = {"num_workers": workers, "on_bad_sample": "skip", "seed": 3}
        loader = create_loader(train_set, 2, shuffle=True, collate_fn=collate_dense, **options)
        batches.append([*loader, *create_loader(val_set, 2, collate_fn=collate_dense_lists, **options)])
        assert loader.skipped_samples() == 1
    for (images, targets), (images_again, targets_again) in zip(*batches, strict=True):
        assert len(images) == len(images_again) == 1
        assert (images[0] == images_again[0]).all()
        assert (targets[0] == targets_again[0]).all()
