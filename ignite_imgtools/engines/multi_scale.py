"""Training at several image sizes, one for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools.distributed import keyed_seed, unwrap_model

__all__ = ["attach_multi_scale", "multi_scale_size", "multi_scale_sizes"]

# Keeps these draws apart from those of a step, which are keyed by (seed, rank, iteration).
_KEY = 0x53495A45


def multi_scale_sizes(size: int, factor: float = 1.5, divisor: int = 32) -> tuple[int, ...]:
    """The multiples of ``divisor`` from ``size / factor`` to ``size * factor``, ends rounded down, none below two times
    ``divisor``: an image that is a single cell to the network is nothing that a batch can be normalised with.

    Raises:
        ValueError: ``factor`` is below 1, or there is no such size.

    >>> multi_scale_sizes(512)[0], multi_scale_sizes(512)[-1], len(multi_scale_sizes(512))
    (320, 768, 15)
    """
    first, last = max(2, int(size / factor) // divisor), int(size * factor) // divisor
    if factor < 1 or last < first:
        raise ValueError(f"sizes from {size} / {factor:g} to {size} * {factor:g} in steps of {divisor} are impossible")
    return tuple(step * divisor for step in range(first, last + 1))


def multi_scale_size(sizes: Sequence[int], seed: int, iteration: int) -> int:
    """The size of an iteration: a pure function of its arguments, so the same on all processes and after a resume."""
    return sizes[keyed_seed(seed, iteration, _KEY) % len(sizes)]


def attach_multi_scale(
    trainer: Engine, model: nn.Module, sizes: Sequence[int], *, seed: int = 0, every: int = 1
) -> Any:
    """Draw one of ``sizes`` for each batch, the same on all processes, and set ``model.train_size`` to it.

    Args:
        model: with or without its wrapper; reads ``train_size`` in its forward pass, as
            :class:`ignite_imgtools.models.Yolov3Spp` does.
        sizes: in pixels.
        seed: of the draws.
        every: iterations that share a size, such as those whose gradients are accumulated.

    Returns:
        An object whose ``remove()`` ends it; the model keeps its last size.

    Raises:
        ValueError: there are no sizes, or ``every`` is below 1.
        TypeError: the model has no ``train_size``.
    """
    if not sizes or every < 1:
        raise ValueError(f"expected at least one size and every >= 1, got {list(sizes)} and {every}")
    module: Any = unwrap_model(model)
    if not hasattr(module, "train_size"):
        raise TypeError(f"{type(module).__name__} has no train_size, so it cannot be trained at several sizes")

    def draw(engine: Engine) -> None:
        module.train_size = multi_scale_size(sizes, seed, (engine.state.iteration - 1) // every)

    return trainer.add_event_handler(Events.ITERATION_STARTED, draw)
