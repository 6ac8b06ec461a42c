"""Sizes of images as COCO has them, for the benchmarks of samplers and loaders.

Drawn from the shapes of 320 real images of train2017, val2017 and val2014. Twelve sizes hold 63 % of them: those are
drawn as often as they come. Of the others five in six have a longer side of 640 pixels and the rest of 500, 72 % lie on
their side, and the shorter side is drawn from the quantiles of theirs.
"""

from __future__ import annotations

import numpy as np

_FREQUENT = {  # (width, height): of 320 images
    (640, 480): 67,
    (640, 427): 41,
    (480, 640): 26,
    (640, 426): 12,
    (500, 375): 11,
    (640, 428): 9,
    (427, 640): 8,
    (640, 424): 8,
    (640, 425): 6,
    (375, 500): 5,
    (500, 333): 4,
    (333, 500): 4,
}
_IMAGES = 320
_QUANTILES = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1)
_RATIOS = (0.341, 0.542, 0.564, 0.657, 0.714, 0.755, 0.895, 0.988, 1.0)  # shorter side over longer side


def coco_sizes(count: int, seed: int = 0) -> np.ndarray:
    """Sizes ``[count, 2]``, each (height, width) in pixels."""
    rng = np.random.default_rng(seed)
    longer = rng.choice([640, 500], p=[5 / 6, 1 / 6], size=count)
    shorter = np.rint(longer * np.interp(rng.random(count), _QUANTILES, _RATIOS)).astype(np.int64)
    lying = rng.random(count) < 0.72
    sizes = np.where(lying[:, None], np.stack([shorter, longer], 1), np.stack([longer, shorter], 1))
    frequent = np.array([(height, width) for width, height in _FREQUENT])
    share = np.array(list(_FREQUENT.values())) / _IMAGES
    kind = rng.choice(len(frequent) + 1, p=[*share, 1 - share.sum()], size=count)
    return np.where((kind < len(frequent))[:, None], frequent[np.minimum(kind, len(frequent) - 1)], sizes)
