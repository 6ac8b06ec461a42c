"""The Dice loss over all classes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dice_loss"]


def dice_loss(logits: Tensor, targets: Tensor, *, ignore_index: int = 255, epsilon: float = 1e-6) -> Tensor:
    r"""One less the mean Dice coefficient of the images' classes, the background among them.

    For image ``b`` and class ``c``, with probabilities ``p`` by softmax and truth ``t`` of 0 and 1, summed over the
    pixels that are not ignored (Milletari et al. 2016, without the squares):

    .. math:: D_{bc} = \frac{2 \sum p t + \varepsilon}{\sum p + \sum t + \varepsilon}, \qquad
              L = 1 - \frac{1}{BC} \sum_{b,c} D_{bc}

    Args:
        logits: ``[B, C, H, W]``, floating point.
        targets: ``[B, H, W]``, integer: classes 0..C-1 or ``ignore_index``.
        ignore_index: pixels of this value take no part.
        epsilon: makes the coefficient of a class 1 where nothing has and nothing predicts it.

    Returns:
        A float32 scalar in 0..1; nothing waits for the device.

    >>> perfect = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
    >>> round(dice_loss(perfect, torch.tensor([[[0, 1]]])).item(), 4)
    0.0
    """
    probs = logits.float().softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=targets.device).view(1, -1, 1, 1)
    targets = targets.unsqueeze(1)
    # A multiplication by 0 and 1: indexing by a mask would make the host wait for its number of pixels.
    valid = targets != ignore_index
    truth = (targets == classes) & valid
    overlap = (probs * truth).sum(dim=(2, 3))
    total = (probs * valid).sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    return 1 - ((2 * overlap + epsilon) / (total + epsilon)).mean()
