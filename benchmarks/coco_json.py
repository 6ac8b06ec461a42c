"""A file of COCO's instances as large as that of train2017, and the images it names, for the benchmark of starting up.

118,287 images, 860,001 annotations of 80 categories, 1.2 % of them crowds as uncompressed run lengths, the others with
one polygon or, one in nine, two, of 3 to 120 points, two digits behind the point: 460 MB, the real file 448. Outlines
are drawn from 20,000. The images are hard links to one grey JPEG of each size: a page at the start and one at the end
are all that indexing looks at.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from coco_shapes import coco_sizes
from PIL import Image

__all__ = ["write_coco"]

IMAGES, ANNOTATIONS, CATEGORIES = 118_287, 860_001, 80
_OUTLINES = 20_000


def write_coco(folder: Path, images: int = IMAGES, annotations: int = ANNOTATIONS, *, links: bool = True) -> Path:
    """Write the file into ``folder``, and the images into ``folder/train2017``; gives back the file's path.

    Args:
        links: write the images too.
    """
    rng = np.random.default_rng(0)
    sizes = coco_sizes(images)
    names = [f"{number:012d}.jpg" for number in range(1, images + 1)]
    file = folder / "annotations" / "instances_train2017.json"
    file.parent.mkdir(parents=True)
    outlines = [_outline(rng) for _ in range(_OUTLINES)]
    with file.open("w") as out:
        out.write('{"info": {"description": "drawn"}, "licenses": [], "images": [')
        for number, (name, (height, width)) in enumerate(zip(names, sizes.tolist(), strict=True), start=1):
            out.write(", " * (number > 1) + _image(number, name, height, width))
        out.write('], "annotations": [')
        owners = rng.integers(0, images, annotations)
        choice = rng.integers(0, _OUTLINES, annotations)
        crowd = rng.random(annotations) < 0.012
        labels = rng.integers(1, CATEGORIES + 1, annotations)
        rows = zip(owners.tolist(), choice.tolist(), crowd.tolist(), labels.tolist(), strict=True)
        for number, (owner, outline, is_crowd, label) in enumerate(rows, start=1):
            body = _crowd(*sizes[owner].tolist()) if is_crowd else outlines[outline]
            end = f'"iscrowd": {int(is_crowd)}, "image_id": {owner + 1}, "category_id": {label}, "id": {number}}}'
            out.write(", " * (number > 1) + body + end)
        out.write('], "categories": ')
        json.dump([{"supercategory": "thing", "id": i, "name": f"thing {i}"} for i in range(1, CATEGORIES + 1)], out)
        out.write("}")
    if links:
        _link_images(folder / "train2017", names, sizes)
    return file


def _image(number: int, name: str, height: int, width: int) -> str:
    url = f"http://images.cocodataset.org/train2017/{name}"
    flickr = f"http://farm9.staticflickr.com/8186/{8119368305 + number}_4e622c8349_z.jpg"
    return (
        f'{{"license": 3, "file_name": "{name}", "coco_url": "{url}", "height": {height}, "width": {width}, '
        f'"date_captured": "2013-11-14 16:28:13", "flickr_url": "{flickr}", "id": {number}}}'
    )


def _outline(rng: np.random.Generator) -> str:
    # Inside of 200 x 200 pixels, the smallest side that any image has.
    polygons = []
    center, radius = rng.uniform(60, 130, 2), rng.uniform(5, 55)
    for _ in range(1 + (rng.random() < 1 / 9)):
        count = int(np.clip(rng.lognormal(2.87, 0.6), 3, 120))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        points = center + radius * rng.uniform(0.6, 1, (count, 1)) * np.stack((np.cos(angles), np.sin(angles)), 1)
        polygons.append(points.round(2))
    low, high = np.concatenate(polygons).min(0), np.concatenate(polygons).max(0)
    box = np.maximum(np.concatenate((low, high - low)), 0.5).round(2).tolist()
    text = json.dumps([polygon.ravel().tolist() for polygon in polygons])
    return f'{{"segmentation": {text}, "area": {box[2] * box[3] * 0.6:.5f}, "bbox": {json.dumps(box)}, '


def _crowd(height: int, width: int) -> str:
    runs = [40, 20] * 200
    counts = [*runs, height * width - sum(runs)]
    return (
        f'{{"segmentation": {{"counts": {counts}, "size": [{height}, {width}]}}, "area": 4000, "bbox": [1, 1, 90, 80], '
    )


def _link_images(folder: Path, names: list[str], sizes: np.ndarray) -> None:
    folder.mkdir()
    patterns = folder.with_name("patterns")
    patterns.mkdir()
    for height, width in np.unique(sizes, axis=0).tolist():
        Image.new("RGB", (width, height), "gray").save(patterns / f"{height}x{width}.jpg")
    for name, (height, width) in zip(names, sizes.tolist(), strict=True):
        os.link(patterns / f"{height}x{width}.jpg", folder / name)
