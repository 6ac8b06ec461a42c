"""The colours that PASCAL VOC gives to class numbers."""

from __future__ import annotations

import numpy as np

__all__ = ["voc_palette"]


def voc_palette() -> np.ndarray:
    """VOC's colour of each number: uint8 ``[256, 3]``, RGB; 0 is black, 255 a light grey.

    The bits of a number, three at a time from the lowest on, become the bits of red, green and blue from the highest
    on (VOC development kit, ``VOClabelcolormap.m``).
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours
