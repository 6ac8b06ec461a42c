"""The best score of a run."""

from __future__ import annotations

import math

from ignite.engine import Engine

from ignite_imgtools.handlers.best_score import BestScore


def _propose(best: BestScore, score: float, iteration: int) -> bool:
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    trainer.state.iteration = iteration
    evaluator.state.metrics["AP"] = score
    return best.propose(trainer, evaluator)


def test_a_proposal_that_is_not_committed_is_rolled_back() -> None:
    best = BestScore("AP")
    assert _propose(best, 0.5, 1)
    best.commit()
    assert _propose(best, 0.9, 2)
    best.roll_back()
    assert (best.score, best.iteration) == (0.5, 1)
    assert _propose(best, 0.7, 3)


def test_equal_scores_and_those_that_are_not_finite_are_no_better() -> None:
    best = BestScore("AP", "min")
    assert not _propose(best, math.nan, 1)
    assert not _propose(best, -math.inf, 1)
    assert _propose(best, 0.5, 1)
    assert not _propose(best, 0.5, 2)


def test_without_a_metric_there_is_no_best() -> None:
    assert not _propose(BestScore(None), 1.0, 1)


def test_only_the_score_of_the_same_metric_is_loaded() -> None:
    best = BestScore("AP")
    _propose(best, 0.5, 3)
    other, same = BestScore("AP50"), BestScore("AP")
    for target in (other, same):
        target.load_state_dict(best.state_dict())
    assert (other.score, same.score, same.iteration) == (None, 0.5, 3)
    assert not same.takes(best.state_dict())
    assert BestScore("AP").takes(best.state_dict())
    assert not BestScore("AP", "min").takes(best.state_dict())
    same.roll_back()
    assert same.score == 0.5
