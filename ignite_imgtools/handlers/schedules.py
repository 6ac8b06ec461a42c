"""Learning rates as functions of the optimizer step: a linear warm-up, then steps, a cosine or a polynomial.

Each schedule is a plain function from the step to a factor of the optimizer's learning rate, and a factory that makes
a ``torch.optim`` scheduler of it, to be stepped once for each optimizer step (``GradientUpdate(scheduler=...)`` does).
All lengths are in optimizer steps; :func:`steps_per_epoch` says how many an epoch has. None of them can be stepped
past its end into nonsense: it stays at its last value.

A scheduler's state is numbers alone and holds no lengths: a run that is resumed with another number of epochs goes
on, at its step, on the schedule it is now given.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = [
    "cosine_factor",
    "multistep_factor",
    "poly_factor",
    "steps_per_epoch",
    "warmup_cosine",
    "warmup_factor",
    "warmup_multistep",
    "warmup_poly",
]


def steps_per_epoch(iterations: int, accumulate: int = 1) -> int:
    """The optimizer steps in an epoch of ``iterations`` batches; the last, shorter window is one too.

    >>> steps_per_epoch(10, accumulate=4)
    3
    """
    return math.ceil(iterations / accumulate)


def warmup_factor(step: int, warmup_steps: int, start_factor: float = 1e-3) -> float:
    """From ``start_factor`` at step 0 linearly to 1 at step ``warmup_steps``, and 1 after it.

    >>> [warmup_factor(step, 2, 0.5) for step in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """
    if step >= warmup_steps:
        return 1.0
    return start_factor + (1 - start_factor) * step / warmup_steps


def multistep_factor(step: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """``gamma`` to the power of how many of the sorted ``milestones`` are reached.

    >>> [multistep_factor(step, [2, 4]) for step in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.010000000000000002]
    """
    return float(gamma ** bisect_right(milestones, step))


def cosine_factor(step: int, total_steps: int, end_factor: float = 0.0) -> float:
    """Half a cosine from 1 at step 0 to ``end_factor`` at ``total_steps``; no rise after it.

    >>> [round(cosine_factor(step, 4), 3) for step in (0, 1, 2, 4, 8)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """
    progress = min(step / total_steps, 1.0)
    return end_factor + (1 - end_factor) * (1 + math.cos(math.pi * progress)) / 2


def poly_factor(step: int, total_steps: int, power: float = 0.9, end_factor: float = 0.0) -> float:
    """``(1 - step / total_steps) ** power``, from 1 to ``end_factor``; no complex numbers after the end.

    >>> [round(poly_factor(step, 4), 3) for step in (0, 2, 4, 8)]
    [1.0, 0.536, 0.0, 0.0]
    """
    progress = min(step / total_steps, 1.0)
    return float(end_factor + (1 - end_factor) * (1 - progress) ** power)


def warmup_multistep(
    optimizer: Optimizer,
    milestones: Sequence[int],
    *,
    gamma: float = 0.1,
    warmup_steps: int = 0,
    start_factor: float = 1e-3,
) -> LambdaLR:
    """Warm up, then multiply by ``gamma`` at each of the ``milestones``, which count from step 0.

    Raises:
        ValueError: milestones that do not rise, or a length or factor out of range.
    """
    _check_warmup(warmup_steps, start_factor)
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones must rise, got {list(milestones)}")
    marks = tuple(milestones)

    def factor(step: int) -> float:
        return warmup_factor(step, warmup_steps, start_factor) * multistep_factor(step, marks, gamma)

    return LambdaLR(optimizer, factor)


def warmup_cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    end_factor: float = 0.0,
    warmup_steps: int = 0,
    start_factor: float = 1e-3,
) -> LambdaLR:
    """Warm up, then half a cosine over the rest of ``total_steps``; warns where it is stepped beyond, at a rate of 0.

    Raises:
        ValueError: a length or factor is out of range.
    """
    _check_decay(total_steps, end_factor)
    _check_warmup(warmup_steps, start_factor)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warmup_factor(step, warmup_steps, start_factor)
        return cosine_factor(step - warmup_steps, max(1, total_steps - warmup_steps), end_factor)

    return LambdaLR(optimizer, _that_warns(factor, total_steps))


def warmup_poly(
    optimizer: Optimizer,
    total_steps: int,
    *,
    power: float = 0.9,
    end_factor: float = 0.0,
    warmup_steps: int = 0,
    start_factor: float = 1e-3,
) -> LambdaLR:
    """Warm up, then a polynomial over the rest of ``total_steps``; warns where it is stepped beyond, at a rate of 0.

    Raises:
        ValueError: a length, factor or the power is out of range.
    """
    _check_decay(total_steps, end_factor)
    _check_warmup(warmup_steps, start_factor)
    if not power > 0:
        raise ValueError(f"power must be above 0, got {power}")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warmup_factor(step, warmup_steps, start_factor)
        return poly_factor(step - warmup_steps, max(1, total_steps - warmup_steps), power, end_factor)

    return LambdaLR(optimizer, _that_warns(factor, total_steps))


def _that_warns(factor: Callable[[int], float], total_steps: int) -> Callable[[int], float]:
    """``factor``, and one warning where a step is made at a learning rate of 0."""
    has_warned = False

    def warning_factor(step: int) -> float:
        nonlocal has_warned
        found = factor(step)
        # The factor for the step after the last is asked for too.
        if found == 0 and step > total_steps and not has_warned:
            has_warned = True
            warnings.warn(
                f"the schedule has ended after total_steps={total_steps} optimizer steps, and the training goes on at "
                "a learning rate of 0: give it all epochs times steps_per_epoch(iterations, accumulate)",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    return warning_factor


def _check_warmup(warmup_steps: int, start_factor: float) -> None:
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
    if not 0 <= start_factor <= 1:
        raise ValueError(f"start_factor must be in 0..1, got {start_factor}")


def _check_decay(total_steps: int, end_factor: float) -> None:
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if not 0 <= end_factor <= 1:
        raise ValueError(f"end_factor must be in 0..1, got {end_factor}")
