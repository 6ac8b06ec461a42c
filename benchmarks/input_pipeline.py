"""What samples, batches and loaders cost beside the tutorials' way, in one run.

Photographs are JPEGs of COCO's shapes (``coco_shapes.py``) of noise at several scales, about 100 kB each.
``detection``: one sample of ``CocoDetection`` with ``detection_train``, beside Pillow, RGB, float32 in 0..1 and a flip,
targets made of dicts of the json. ``classification``: a random part at 224 pixels and a flip, uint8, beside
torchvision's transforms of Pillow images to normalised float32. ``+ float`` adds what our training step does on the
device, here on the CPU. ``collate`` makes a batch of the classification samples. ``loader`` is the clock's time of
short epochs with two worker processes, beside a ``DataLoader`` as in the tutorials, which starts its workers in each
epoch; ``threads`` has two threads in their place, without keyed random numbers, which threads would share.

Ways take turns, all samples each; CPU seconds but for ``loader``; of each sample the least of the rounds.

    OMP_NUM_THREADS=1 python benchmarks/input_pipeline.py
    OMP_NUM_THREADS=1 python benchmarks/input_pipeline.py --loaders
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coco_shapes import coco_sizes
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import hflip, to_tensor

from ignite_imgtools import data, distributed
from ignite_imgtools.data.transforms import classification_train, detection_train
from ignite_imgtools.formats import images_to_device

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_photographs(folder: Path, count: int) -> Path:
    """Write JPEGs and an annotation file with seven objects for each."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir()
    for i, (height, width) in enumerate(coco_sizes(count).tolist()):
        pixels = np.zeros((height, width, 3))
        for scale, strength in ((64, 1.0), (16, 0.4), (4, 0.2), (1, 0.12)):
            coarse = Image.fromarray(rng.integers(0, 255, (height // scale + 2, width // scale + 2, 3), dtype=np.uint8))
            pixels += strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        buffer = io.BytesIO()
        Image.fromarray((pixels / 1.72).astype(np.uint8)).save(buffer, "JPEG", quality=92)
        (folder / "images" / f"{i:06}.jpg").write_bytes(buffer.getvalue())
        images.append({"id": i, "file_name": f"{i:06}.jpg", "height": height, "width": width})
        for _ in range(7):
            x, y = rng.uniform(0, [width / 2, height / 2])
            box = [x, y, width / 3, height / 3]
            annotation = {"image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **annotation})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


class TutorialDetection(Dataset[Any]):
    """Pillow to float32, and dicts of the json to tensors."""

    def __init__(self, folder: Path):
        content = json.loads((folder / "annotations.json").read_text())
        self.folder, self.images = folder / "images", content["images"]
        self.objects: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            self.objects.setdefault(annotation["image_id"], []).append(annotation)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        entry = self.images[index]
        picture = Image.open(self.folder / entry["file_name"]).convert("RGB")
        objects = self.objects[entry["id"]]
        boxes = torch.as_tensor([found["bbox"] for found in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=picture.width)
        boxes[:, 1::2].clamp_(min=0, max=picture.height)
        target = {
            "boxes": boxes,
            "labels": torch.tensor([found["category_id"] for found in objects]),
            "image_id": torch.tensor([entry["id"]]),
            "area": torch.tensor([found["area"] for found in objects]),
            "iscrowd": torch.tensor([found["iscrowd"] for found in objects]),
        }
        image = to_tensor(picture)
        if torch.rand(()) < 0.5:
            image = hflip(image)
            boxes[:, [0, 2]] = picture.width - boxes[:, [2, 0]]
        return image, target


class Pictures(Dataset[Any]):
    """Images for a classifier: decoded by ``read``, then ``transform``."""

    def __init__(self, folder: Path, read: Callable[[Path], Any], transform: Callable[[Any], Tensor]):
        self.paths = sorted((folder / "images").iterdir())
        self.read, self.transform = read, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.read(self.paths[index]))


def _pillow_rgb(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def _normalised(image: Tensor) -> Tensor:
    scaled = image.float().div_(255)
    return scaled.sub_(torch.tensor(_MEAN)[:, None, None]).div_(torch.tensor(_STD)[:, None, None])


def _first(transform: Callable[[Any, Any], Any], image: Any) -> Tensor:
    return transform(image, 0)[0]


def least_seconds(ways: dict[str, Callable[[int], Any]], count: int, rounds: int) -> dict[str, float]:
    """CPU seconds a sample of each way: of each sample the least of its rounds, in the mean over the samples."""
    best = {name: np.full(count, np.inf) for name in ways}
    for _ in range(rounds):
        # A loader worker does one thing all the time: its memory and caches hold what that needs.
        for name, way in ways.items():
            for index in range(count):
                distributed.seed_all(index)
                start = time.thread_time()
                way(index)
                best[name][index] = min(best[name][index], time.thread_time() - start)
    return {name: float(values.mean()) for name, values in best.items()}


def report(what: str, seconds: dict[str, float], unit: str = "a sample") -> None:
    base = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{what:15} {name:20} {value * 1e3:8.3f} ms {unit}  ratio {value / base:.3f}", flush=True)


def compare_samples(folder: Path, count: int, rounds: int) -> None:
    theirs = TutorialDetection(folder)
    ours = data.CocoDetection(folder / "images", folder / "annotations.json", transforms=detection_train())
    ways: dict[str, Callable[[int], Any]] = {
        "tutorials": theirs.__getitem__,
        "ours": ours.__getitem__,
        "ours + float": lambda index: images_to_device([ours[index][0]], "cpu"),
    }
    report("detection", least_seconds(ways, count, rounds))

    crop = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]
    to_float = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
    pillow = Pictures(folder, _pillow_rgb, v2.Compose([*crop, *to_float]))
    mine = Pictures(folder, data.read_image, partial(_first, classification_train(224)))
    ways = {
        "tutorials": pillow.__getitem__,
        "ours": mine.__getitem__,
        "ours + float": lambda index: _normalised(mine[index]),
    }
    report("classification", least_seconds(ways, count, rounds))
    samples = {"tutorials": [pillow[i] for i in range(count)], "ours": [mine[i] for i in range(count)]}
    collate: dict[str, Callable[[int], Any]] = {
        name: partial(lambda images, _: torch.stack(images), images) for name, images in samples.items()
    }
    report("collate", least_seconds(collate, 1, rounds * 10), "a batch")

    differences = [
        (data.read_image(path).int() - torch.from_numpy(np.array(_pillow_rgb(path))).permute(2, 0, 1).int()).abs()
        for path in mine.paths
    ]
    most, mean = max(int(d.max()) for d in differences), sum(float(d.float().mean()) for d in differences) / count
    print(f"pixels differ from Pillow's by {most} of 255 at most, {mean:.4f} in the mean")


class ThreadedLoader:
    """Two threads in the place of worker processes, four batches ahead; what such a loader would give at best."""

    def __init__(self, dataset: Any, batches: list[list[int]], threads: int):
        self.dataset, self.batches = dataset, batches
        self.pool = ThreadPoolExecutor(threads)

    def __iter__(self) -> Iterator[Any]:
        ahead = [self.pool.submit(self._load, batch) for batch in self.batches]
        for future in ahead:
            yield future.result()

    def _load(self, batch: list[int]) -> Any:
        return data.collate_detection([self.dataset[index] for index in batch])


def compare_loaders(folder: Path, rounds: int, workers: int) -> None:
    theirs = TutorialDetection(folder)
    ours = data.CocoDetection(folder / "images", folder / "annotations.json", transforms=detection_train())
    order = [list(range(i, min(i + 4, len(ours)))) for i in range(0, len(ours), 4)]
    loaders: dict[str, Iterable[Any]] = {
        "tutorials": DataLoader(theirs, 4, shuffle=True, num_workers=workers, collate_fn=_zip),
        "ours": data.create_loader(ours, 4, shuffle=True, num_workers=workers),
        "threads": ThreadedLoader(ours, order, workers),
    }
    best = dict.fromkeys(loaders, float("inf"))
    for i in range(rounds + 1):
        for name, loader in loaders.items():
            start = time.perf_counter()
            for _ in loader:
                pass
            if i:
                best[name] = min(best[name], time.perf_counter() - start)
    report("loader", {name: value / len(ours) for name, value in best.items()})


def _zip(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="of --loaders eight times as many")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--loaders", action="store_true", help="compare loaders instead of samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_photographs(Path(temporary), options.images * (8 if options.loaders else 1))
        if options.loaders:
            compare_loaders(folder, options.rounds, options.workers)
        else:
            compare_samples(folder, options.images, options.rounds)


if __name__ == "__main__":
    main()
