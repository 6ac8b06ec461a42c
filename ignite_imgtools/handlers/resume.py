"""Go on from a checkpoint: on all processes from the same one, into all objects or into none."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ignite.engine import Engine
from ignite.engine.deterministic import DeterministicEngine

from ignite_imgtools.distributed import all_gather_strings, is_main_process
from ignite_imgtools.formats import resumables
from ignite_imgtools.handlers.best_score import BestScore
from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint
from ignite_imgtools.handlers.checkpoint_folder import (
    CheckpointFolder,
    NewestCheckpoint,
    keep_foreign_files,
    load_run,
    newest_checkpoint,
    sweep_temporary_files,
)
from ignite_imgtools.handlers.checkpoint_state import differences, load_state
from ignite_imgtools.handlers.run_folder import set_aside

__all__ = ["resume_training"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)


def resume_training(
    trainer: Engine, objects: Mapping[str, Any], files: CheckpointFolder, best: BestScore, resume: str | Path
) -> Path | None:
    """Load the checkpoint that ``resume`` asks for; call it on all processes, as the trainer starts.

    Args:
        objects: loaded, with the trainer's resumables and position.
        files: the folder that is looked through with ``"auto"``.
        best: gets the score of ``best.pt``.
        resume: ``"auto"``, ``"never"`` or the path of a checkpoint.

    Returns:
        The file, or ``None`` where the run starts anew.

    Raises:
        CheckpointError: on all processes, and nothing is loaded: the file cannot be read, or does not fit.
    """
    path, state = _choose(files, resume)
    if path is None:
        return None
    chosen = path
    content = _agreed(lambda: load_run(chosen) if state is None else state)
    _agreed(lambda: _refuse_unless_it_fits(trainer, objects, chosen, content))
    _load(trainer, objects, chosen, content)
    told = _agreed(lambda: _best_score(files, best, chosen, content))
    best.load_state_dict(json.loads(all_gather_strings(told)[0]))
    if is_main_process():
        if files.last.exists() and files.last.samefile(chosen):
            files.trust_last(trainer.state.iteration)
        _logger.info("resumed from %s, iteration %d", chosen, trainer.state.iteration)
        _warn_of_a_loader_that_does_not_follow(trainer, objects)
    return chosen


def _warn_of_a_loader_that_does_not_follow(trainer: Engine, objects: Mapping[str, Any]) -> None:
    state, loader, known = trainer.state, trainer.state.dataloader, resumables(trainer)
    done = trainer._init_iter
    if done is None and state.epoch_length:
        done = state.iteration % state.epoch_length
    # ignite's DeterministicEngine passes over the batches that were seen.
    if not done or loader is None or "sampler" in known or isinstance(trainer, DeterministicEngine):
        return
    own = (loader, getattr(loader, "batch_sampler", loader), getattr(loader, "sampler", loader))
    if any(part is item for part in own for item in (*objects.values(), *known.values())):
        return
    _logger.warning(
        "resumed within an epoch, after %d of its %s batches, but the loader begins the epoch anew: what it gives now "
        "is not what it would have given; let a sampler follow the trainer, data.GroupedBatchSampler(...).attach("
        "trainer), or save the loader in to_save if it has a state_dict",
        done,
        state.epoch_length or "?",
    )


def _choose(files: CheckpointFolder, resume: str | Path) -> tuple[Path | None, dict[str, Any] | None]:
    """The file to resume from, the same on all processes; on the one that has read it already with its content."""
    newest: NewestCheckpoint | None = None

    def choose() -> str:
        nonlocal newest
        if not is_main_process():
            return ""
        if files.path.is_dir():
            sweep_temporary_files(files.path)
        if resume == "never":
            set_aside(files.path.parent, [files.path.name])
            return ""
        if resume != "auto":
            return str(resume)
        newest = newest_checkpoint(files.path)
        if newest is None:
            return ""
        for path in keep_foreign_files(newest.foreign):
            _logger.warning("%s: kept under this name; the run goes on from %s", path, newest.path)
        return str(newest.path)

    name = all_gather_strings(_agreed(choose))[0]
    return (Path(name) if name else None), (newest.state if newest else None)


def _refuse_unless_it_fits(trainer: Engine, objects: Mapping[str, Any], path: Path, state: Mapping[str, Any]) -> None:
    if found := differences(trainer, objects, state):
        raise CheckpointError(
            f"{path}: does not fit this run, nothing was loaded: {'; '.join(found)}; resume with what it was written "
            "by, or start anew in another output_dir"
        )


def _load(trainer: Engine, objects: Mapping[str, Any], path: Path, state: Mapping[str, Any]) -> None:
    undo: Callable[[], None] | None = None

    def load() -> None:
        nonlocal undo
        try:
            undo = load_state(trainer, objects, state)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: does not fit this run, nothing was loaded: {error}") from error

    try:
        _agreed(load)
    except CheckpointError:
        if undo is not None:  # this process has loaded, another one could not
            undo()
        raise


def _best_score(files: CheckpointFolder, best: BestScore, path: Path, state: Mapping[str, Any]) -> str:
    """The best score is that of ``best.pt``, whatever the checkpoint says: no worse model overwrites that file."""
    if is_main_process():
        if files.best.exists() and not files.best.samefile(path):
            try:
                best.load_state_dict(load_checkpoint(files.best).get("checkpoints", {}))
            except CheckpointError as error:
                _logger.warning("%s", error)
        loaded = state.get("checkpoints", {})
        # A kill between the two files of a new best has left the old one.
        if loaded.get("iteration") == state["trainer"]["iteration"] and best.takes(loaded):
            files.link_best(path)
            best.load_state_dict(loaded)
    return json.dumps(best.state_dict())


def _agreed(function: Callable[[], T]) -> T:
    """``function()`` on every process; if it fails on one, the first such error is raised on all."""
    try:
        result = function()
    except Exception as error:
        all_gather_strings(str(error) or repr(error))
        raise
    if told := [text for text in all_gather_strings("") if text]:
        raise CheckpointError(told[0])
    return result
