"""A small VOC data set to be damaged by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def voc_object(name: str, box: tuple[object, object, object, object], more: str = "<difficult>0</difficult>") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_xml(stem: str, *objects: str, size: str = "<width>40</width><height>30</height><depth>3</depth>") -> str:
    return f"<annotation><filename>{stem}.jpg</filename><size>{size}</size>{''.join(objects)}</annotation>"


def write_voc_folder(root: Path) -> Path:
    """Images a and b to train with, c to validate, all 40 x 30; gives back the folder."""
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    xmls = {
        "a": voc_xml(
            "a", voc_object("wolf", (1, 2, 11, 12)), voc_object("dog", (5, 6, 25, 16), "<difficult>1</difficult>")
        ),
        "b": voc_xml("b", voc_object("dog", (10.5, 10, 40, 30), "")),  # no <difficult>
        "c": voc_xml("c", voc_object("zebra", (1, 1, 40, 30))),
    }
    for stem, xml in xmls.items():
        pixels = np.random.default_rng(ord(stem)).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations" / f"{stem}.xml").write_text(xml, encoding="utf-8")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n", encoding="utf-8")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\n", encoding="utf-8")
    return root
