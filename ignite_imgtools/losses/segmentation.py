"""Cross-entropy over pixels, and the loss of a segmenter with its auxiliary head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ignite_imgtools.losses.dice import dice_loss

__all__ = ["SegmentationLoss", "cross_entropy"]


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, *, ignore_index: int = 255
) -> Tensor:
    """The mean cross-entropy over the pixels that are not ignored, each weighted by its class.

    As ``torch.nn.functional.cross_entropy``, except that it is 0 where all pixels are ignored and not NaN, and that
    the sum over the pixels is the same in every run on a GPU too.

    Args:
        logits: ``[B, C, H, W]``, floating point.
        targets: ``[B, H, W]``, int64: classes 0..C-1 or ``ignore_index``.
        class_weights: float32 ``[C]`` on the device of the logits.
        ignore_index: pixels of this value take no part.

    Returns:
        A float32 scalar; nothing waits for the device.
    """
    # Reduced in a second step: the kernel that does both adds up in no fixed order on a GPU.
    losses = F.cross_entropy(logits.float(), targets, class_weights, ignore_index=ignore_index, reduction="none")
    valid = targets != ignore_index
    if class_weights is None:
        return losses.sum() / valid.sum().clamp(min=1)
    total = (class_weights[targets * valid] * valid).sum()
    return losses.sum() / torch.where(total > 0, total, 1)


class SegmentationLoss(nn.Module):
    """The terms of a segmenter's loss, already weighted: their sum is the loss.

    Args:
        class_weights: one for each class, for the cross-entropy.
        ignore_index: pixels of this value take no part.
        aux_weight: of the auxiliary head's loss, which is made as that of the main one.
        dice: add the Dice loss to the cross-entropy.

    Shapes:
        ``{"out": logits [B, C, H, W][, "aux": logits]}`` and targets int64 ``[B, H, W]`` to ``{"loss_ce": scalar[,
        "loss_dice": scalar][, "loss_aux": scalar]}``, float32.

    Raises:
        ValueError: the number of class weights is not that of the classes.

    >>> output = {"out": torch.zeros(1, 4, 2, 2), "aux": torch.zeros(1, 4, 2, 2)}
    >>> terms = SegmentationLoss()(output, torch.tensor([[[0, 3], [255, 1]]]))
    >>> {name: round(term.item(), 4) for name, term in terms.items()}  # ln 4, and half of it
    {'loss_ce': 1.3863, 'loss_aux': 0.6931}
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
        aux_weight: float = 0.5,
        dice: bool = False,
    ):
        super().__init__()
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32).clone()
        self.register_buffer("class_weights", weights, persistent=False)
        self.ignore_index, self.aux_weight, self.dice = ignore_index, aux_weight, dice

    def forward(self, output: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        terms = self._terms(output["out"], targets)
        if "aux" in output:
            aux = self._terms(output["aux"], targets)
            terms["loss_aux"] = self.aux_weight * torch.stack(list(aux.values())).sum()
        return terms

    def _terms(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        weights = self.class_weights
        if weights is not None:
            if len(weights) != logits.shape[1]:
                raise ValueError(
                    f"class_weights must have one for each of {logits.shape[1]} classes, got {len(weights)}"
                )
            if weights.device != logits.device:
                # Once: a copy in every step would make the host wait.
                self.class_weights = weights = weights.to(logits.device)
        terms = {"loss_ce": cross_entropy(logits, targets, weights, ignore_index=self.ignore_index)}
        if self.dice:
            terms["loss_dice"] = dice_loss(logits, targets, ignore_index=self.ignore_index)
        return terms
