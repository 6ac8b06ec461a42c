"""The best score of a run so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine

__all__ = ["BestScore"]


class BestScore:
    """Keeps the best value of a metric and the iteration it was reached at.

    A new value is a proposal until :meth:`commit`, so that it goes with the checkpoint that could not be written.

    Args:
        metric: its name among the evaluator's metrics, or ``None``: there never is a best.
        mode: ``"max"`` or ``"min"``.
    """

    def __init__(self, metric: str | None, mode: str = "max"):
        self.metric = metric
        self.mode = mode
        self.score: float | None = None
        self.iteration: int | None = None
        self._committed: tuple[float | None, int | None] = (None, None)

    def propose(self, trainer: Engine, evaluator: Engine | None) -> bool:
        """Look at the newest evaluation; whether it is the best so far.

        Raises:
            ValueError: there is no such metric; names those there are.
        """
        if self.metric is None:
            return False
        score = float(self._value(trainer, evaluator))
        if not self._is_better(score):
            return False
        self.score, self.iteration = score, trainer.state.iteration
        return True

    def commit(self) -> None:
        """The checkpoint with this score is on disk."""
        self._committed = (self.score, self.iteration)

    def roll_back(self) -> None:
        """Forget what was proposed since the last commit."""
        self.score, self.iteration = self._committed

    def takes(self, state: Mapping[str, Any]) -> bool:
        """Whether ``state`` is of the same metric and holds a better score."""
        score = state.get("score")
        return self._is_same(state) and score is not None and self._is_better(score)

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "mode": self.mode, "score": self.score, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned; a score of another metric says nothing and is left out."""
        if self._is_same(state):
            self.score, self.iteration = state["score"], state["iteration"]
            self.commit()

    def _is_same(self, state: Mapping[str, Any]) -> bool:
        return self.metric is not None and (state.get("metric"), state.get("mode")) == (self.metric, self.mode)

    def _is_better(self, score: float) -> bool:
        if not math.isfinite(score):
            return False
        return self.score is None or (score > self.score if self.mode == "max" else score < self.score)

    def _value(self, trainer: Engine, evaluator: Engine | None) -> Any:
        known: dict[str, Any] = {}
        for name, metrics in getattr(trainer.state, "evaluations", {}).items():
            known |= {f"{name}/{key}": value for key, value in metrics.items()}
        if evaluator is not None:
            known |= evaluator.state.metrics
        if self.metric not in known:
            has = ", ".join(sorted(known)) or "none: attach the metric to the evaluator"
            raise ValueError(f"best={self.metric!r} is no metric of the evaluation; it has {has}")
        return known[self.metric]
