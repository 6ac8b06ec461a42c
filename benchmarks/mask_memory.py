"""Memory that the masks of crowded images take, in a training step and in an evaluation of Mask R-CNN.

Each measurement has a process of its own, and is what the process grew by beyond the same step with one object in each
image. Two images of 800 x 1333 pixels, with as many objects as asked; a small ResNet-18, so that masks are what counts.
"of torchvision" resizes and pastes masks as torchvision does.

    python benchmarks/mask_memory.py --objects 100

One mask of a target is a byte a pixel: 1.07 MB in an image of this size. The loss of torchvision makes floats of the
masks of one image after the other.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ignite_imgtools import models

_HEIGHT, _WIDTH = 800, 1333


def measure(part: str, system: str, objects: int) -> float:
    """Megabytes that this process has grown to at its largest."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    heads = {"representation": 64, "mask_layers": (16,), "proposals": (200, 100), "sampling_ratio": 1}
    model = models.mask_rcnn(
        2,
        backbone="resnet18",
        fpn_channels=32,
        box_batch_size_per_image=64,
        box_score_thresh=0.0,
        box_nms_thresh=1.0,
        box_detections_per_img=objects,
        **heads,  # type: ignore[arg-type]
    )
    if system == "of torchvision":
        own = model.transform
        model.transform = GeneralizedRCNNTransform(own.min_size, own.max_size, own.image_mean, own.image_std)
    images = [torch.rand(3, _HEIGHT, _WIDTH) for _ in range(2)]
    if part == "training":
        corners = torch.rand(objects, 2) * torch.tensor([_WIDTH - 90.0, _HEIGHT - 90.0])
        targets = [
            {
                "boxes": torch.cat([corners, corners + 80], dim=1),
                "labels": torch.ones(objects, dtype=torch.int64),
                "masks": torch.ones(objects, _HEIGHT, _WIDTH, dtype=torch.uint8),
            }
            for _ in images
        ]
        sum(model.train()(images, targets).values()).backward()
    else:
        with torch.inference_mode():
            found = model.eval()(images)
            assert all(len(detections["masks"]) == objects for detections in found)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one[0], options.one[1], int(options.one[2])))
        return
    for part in ("training", "evaluation"):
        for system in ("ours", "of torchvision"):
            sizes = [
                float(
                    subprocess.run(
                        [sys.executable, __file__, "--one", part, system, str(objects)],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for objects in (1, options.objects)
            ]
            print(
                f"{part:11} {system:15} {options.objects} objects an image: {sizes[1] - sizes[0]:5.0f} MB", flush=True
            )


if __name__ == "__main__":
    main()
