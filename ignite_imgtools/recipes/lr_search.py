"""The search for a learning rate: a short training in which it rises, until the loss does."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools.distributed import on_main_process
from ignite_imgtools.engines import GradientUpdate
from ignite_imgtools.handlers.figures import array_to_png, create_figure, figure_to_array
from ignite_imgtools.handlers.run_files import write_atomically
from ignite_imgtools.recipes.config import ConfigError

__all__ = ["LrSearch"]

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LrSearch:
    """ignite's FastaiLRFinder on a trainer: from ``start`` to ``end`` in equal factors, one an iteration.

    Args:
        folder: gets ``find_lr.png`` and ``find_lr.json``.
        iterations: at most; it ends where the loss is five times the smallest one, or not finite.
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

        def end_when_not_finite(engine: Engine) -> None:
            output: Any = engine.state.output
            if not math.isfinite(float(output["loss"])):
                engine.terminate()

        for group in optimizer.param_groups:
            group["lr"] = self.start
        options: dict[str, Any] = {
            "output_transform": lambda output: output["loss"],
            "num_iter": self.iterations,
            "start_lr": [self.start * factor for factor in factors],
            "end_lr": [self.end * factor for factor in factors],
        }
        trainer.add_event_handler(Events.ITERATION_COMPLETED, end_when_not_finite)
        to_save = {"model": model, "optimizer": optimizer}
        with warnings.catch_warnings(), finder.attach(trainer, to_save, **options) as searching:
            warnings.filterwarnings("ignore", message="Run completed without loss diverging")
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            searching.run(loader, max_epochs=math.ceil(self.iterations / len(loader)))
        on_main_process(lambda: self._tell(finder))

    def _tell(self, finder: Any) -> None:
        found = finder.get_results()
        finite = next((i for i, loss in enumerate(found["loss"]) if not math.isfinite(loss)), len(found["loss"]))
        for values in found.values():
            del values[finite:]
        # Of several groups of parameters the first one has the rate of --lr.
        rates = [rate[0] if isinstance(rate, list) else rate for rate in found["lr"]]
        suggestion = None
        with contextlib.suppress(RuntimeError):  # of a loss that only rose
            chosen = finder.lr_suggestion()
            suggestion = chosen[0] if isinstance(chosen, list) else chosen
        text = json.dumps({"suggestion": suggestion, "lr": rates, "loss": found["loss"]}, indent=1)
        write_atomically(self.folder / "find_lr.json", text.encode())
        write_atomically(self.folder / "find_lr.png", _picture(rates, found["loss"], suggestion))
        if suggestion is None:
            raise ConfigError(
                f"no rate between {self.start:g} and {self.end:g} lowers the loss (see {self.folder / 'find_lr.png'}); "
                "give another --start-lr, or more --iterations"
            )
        _logger.info("curve: %s", self.folder / "find_lr.png")
        _logger.info("suggested: --lr %.2g", suggestion)


def _picture(rates: list[float], losses: list[float], suggestion: float | None) -> bytes:
    figure, (ax,) = create_figure()
    ax.plot(rates, losses, color="tab:blue")
    ax.set_xscale("log")
    if suggestion is not None:
        ax.plot(suggestion, losses[rates.index(suggestion)], "o", color="tab:red", label=f"suggested {suggestion:.2g}")
        ax.legend(frameon=False)
    known = torch.tensor(losses)
    if len(losses) > 1:
        # What comes after the minimum rises beyond all measure.
        ax.set_ylim(float(known.min()) * 0.9, float(known[: int(known.argmin()) + 1].max()) * 1.15)
    ax.set(xlabel="learning rate", ylabel="loss, smoothed")
    ax.set_title("Loss while the learning rate rises", loc="left")
    return array_to_png(figure_to_array(figure))
