"""The search for a learning rate: a short training in which it rises, until the loss does."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import nn

from ignite_imgtools.distributed import on_main_process
from ignite_imgtools.engines import GradientUpdate
from ignite_imgtools.handlers.figures import array_to_png, create_figure, figure_to_array
from ignite_imgtools.handlers.run_files import write_atomically
from ignite_imgtools.recipes.config import ConfigError

__all__ = ["LrSearch"]

_logger = logging.getLogger(__name__)
_WINDOW = 5


@dataclasses.dataclass(frozen=True)
class LrSearch:
    """ignite's FastaiLRFinder on a trainer: from ``start`` to ``end`` in equal factors, one an iteration.

    Args:
        folder: gets ``find_lr.png`` and ``find_lr.json``.
        iterations: at most; it ends where the loss, as a mean of five, is five times the smallest one, or not finite.
    """

    folder: Path
    iterations: int = 100
    start: float = 1e-6
    end: float = 1.0

    def run(self, trainer: Engine, loader: Any, model: nn.Module, update: GradientUpdate) -> None:
        """Search, write and say what was found, and leave model and optimizer as they were; on all processes.

        Raises:
            ConfigError: the loss did not fall at all between the two rates.
        """
        from ignite.handlers.lr_finder import FastaiLRFinder

        optimizer, finder = update.optimizer, FastaiLRFinder()
        update.scheduler = None  # it would set the rate too
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        factors = [rate / rates[0] for rate in rates]

        def end_when_lost(engine: Engine) -> None:
            # The same numbers on all processes, and before a step of weights that are lost.
            if (found := finder.get_results()) and _is_lost(found["loss"]):
                engine.terminate()

        for group in optimizer.param_groups:
            group["lr"] = self.start
        options: dict[str, Any] = {
            "output_transform": lambda output: output["loss"],
            "num_iter": self.iterations,
            "start_lr": [self.start * factor for factor in factors],
            "end_lr": [self.end * factor for factor in factors],
            # Its own smoothing begins with the loss of one batch, which it takes long to forget.
            "smooth_f": 0.0,
            "diverge_th": math.inf,
        }
        trainer.add_event_handler(Events.ITERATION_STARTED, end_when_lost)
        to_save = {"model": model, "optimizer": optimizer}
        with warnings.catch_warnings(), finder.attach(trainer, to_save, **options) as searching:
            warnings.filterwarnings("ignore", message="Run completed without loss diverging")
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            searching.run(loader, max_epochs=math.ceil(self.iterations / len(loader)))
        on_main_process(lambda: self._tell(finder))

    def _tell(self, finder: Any) -> None:
        found = finder.get_results()
        # A sum over the processes.
        losses = np.array(found["loss"]) / idist.get_world_size()
        losses = losses[: next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))]
        # Of several groups of parameters the first one has the rate of --lr.
        rates = [rate[0] if isinstance(rate, list) else rate for rate in found["lr"]][: len(losses)]
        smoothed = _smooth(losses)
        chosen = _steepest(smoothed)
        suggestion = None if chosen is None else rates[chosen]
        content = {"suggestion": suggestion, "lr": rates, "loss": losses.tolist(), "smoothed": smoothed.tolist()}
        write_atomically(self.folder / "find_lr.json", json.dumps(content, indent=1).encode())
        write_atomically(self.folder / "find_lr.png", _picture(rates, losses, smoothed, chosen))
        if suggestion is None:
            raise ConfigError(
                f"no rate between {self.start:g} and {self.end:g} lowers the loss (see {self.folder / 'find_lr.png'}); "
                "give another --start-lr, or more --iterations"
            )
        _logger.info("curve: %s", self.folder / "find_lr.png")
        _logger.info("suggested: --lr %.2g", suggestion)


def _is_lost(losses: Sequence[float]) -> bool:
    """Whether the newest loss is not finite, or those of late are five times the lowest ones on average."""
    if not losses or not math.isfinite(losses[-1]):
        return bool(losses)
    if len(losses) < 2 * _WINDOW:
        return False
    means = np.convolve(losses, np.full(_WINDOW, 1 / _WINDOW), "valid")
    return bool(means[-1] > 5 * means.min())


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means around each loss, in which nearer ones weigh more; at the ends of those there are."""
    reach = min(max(_WINDOW // 2, len(losses) // 10), (len(losses) - 1) // 2)
    weights = np.bartlett(2 * reach + 3)[1:-1]
    return np.convolve(losses, weights, "same") / np.convolve(np.ones(len(losses)), weights, "same")


def _steepest(smoothed: NDArray[np.float64]) -> int | None:
    """Where the loss falls most before its minimum; ``None`` where it does not fall."""
    if len(smoothed) < 3:
        return None
    slopes = np.gradient(smoothed)[: int(smoothed.argmin()) + 1]
    return int(slopes.argmin()) if slopes.min() < 0 else None


def _picture(
    rates: Sequence[float], losses: NDArray[np.float64], smoothed: NDArray[np.float64], chosen: int | None
) -> bytes:
    figure, (ax,) = create_figure()
    ax.plot(rates, losses, color="0.8", linewidth=1, label="of a batch")
    ax.plot(rates, smoothed, color="tab:blue", label="smoothed")
    ax.set_xscale("log")
    if chosen is not None:
        ax.plot(rates[chosen], smoothed[chosen], "o", color="tab:red", label=f"suggested {rates[chosen]:.2g}")
    if len(losses) > 1:
        # What comes after the minimum rises beyond all measure.
        before = smoothed[: int(smoothed.argmin()) + 1].max()
        ax.set_ylim(0.9 * smoothed.min(), 1.15 * max(before, float(np.quantile(smoothed, 0.8))))
    ax.legend(frameon=False)
    ax.set(xlabel="learning rate", ylabel="loss")
    ax.set_title("Loss while the learning rate rises", loc="left")
    return array_to_png(figure_to_array(figure))
