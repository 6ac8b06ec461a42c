"""What loops and their handlers add to an iteration of bare PyTorch, in one run.

A model small enough that it counts what is around it: six losses, their sum, backward, SGD with momentum. ``bare`` is
the loop of five lines. ``ours`` is ``create_trainer`` and ``GradientUpdate`` with all terms metered, a log line every
50 iterations into the run folder and TensorBoard, the watch for non-finite values, and checkpoints attached; then also
with the optimizer of ``engines.create_optimizer``, which is fused. Beside it: a stock Engine; with ignite's
RunningAverage of the seven values; with TerminateOnNan; ignite's ``setup_common_training_handlers`` with its
TensorBoard logger; a loop like those of many tutorials, written anew: meters of the newest 20 values, fed by
``.item()``, the loss looked at in each step, text every 50; and, where ``pytorch-lightning`` is installed, its Trainer
with the seven values logged to TensorBoard every 50.

The ways take turns in rounds of 100 iterations, the ends of epochs left out. An iteration's time is that of the CPU,
for several processes, where waiting is what may be added, that of the clock. Of all rounds' times the lowest tenth is
left out and the next is taken, for each of the 50 places between two log lines apart, and then the mean over the
places: so other work on the machine counts little, and a line of the log in full. Where the tensors of a model lie in
memory is worth up to 20 us: so all ways train the same one, and all is done several times with a model made anew, of
which the mean is given and its standard error.

    OMP_NUM_THREADS=1 python benchmarks/loop.py
    OMP_NUM_THREADS=1 python benchmarks/loop.py --processes 2
    OMP_NUM_THREADS=1 python benchmarks/loop.py --profile          # where the time of ours goes
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import math
import pstats
import tempfile
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.contrib.engines import common
from ignite.engine import Engine, Events
from ignite.handlers import TerminateOnNan
from ignite.metrics import RunningAverage
from torch import Tensor, nn

from ignite_imgtools import distributed, engines, handlers

_LOSSES = ("classifier", "box_reg", "mask", "keypoint", "objectness", "rpn_box_reg")
_LOG_EVERY = 50
_WARM_UP = 10


class SixLosses(nn.Module):
    """A small trunk with six heads; in place of a detector, whose losses have these names."""

    def __init__(self, width: int = 64, depth: int = 3):
        super().__init__()
        self.trunk = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())])
        self.heads = nn.Linear(width, len(_LOSSES))

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        errors = (self.heads(self.trunk(images)) - targets).square().mean(0)
        return {f"loss_{name}": error for name, error in zip(_LOSSES, errors.unbind(), strict=True)}


class Batches:
    """The same batch again and again; notes when each is asked for."""

    def __init__(self, counted: int, device: str, clock: Callable[[], float]):
        generator = torch.Generator().manual_seed(0)
        sizes = ((16, 64), (16, len(_LOSSES)))
        images, targets = (torch.randn(size, generator=generator).to(device) for size in sizes)
        self._batch = (images, targets)
        self._length = _WARM_UP + counted + 1
        self._clock = clock
        self.asked_for: list[float] = []

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked_for = []
        for _ in range(self._length):
            self.asked_for.append(self._clock())
            yield self._batch

    def microseconds(self) -> np.ndarray:
        """Of the iterations, by their places between two log lines ``[lines, places]``."""
        return np.diff(self.asked_for)[_WARM_UP:].reshape(-1, _LOG_EVERY) * 1e6


Way = Callable[[Batches], None]


def create_model(device: str) -> nn.Module:
    """The model of all ways, wrapped where there are several processes."""
    torch.manual_seed(0)
    return distributed.create_parallel_model(SixLosses(), device)


def create_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def bare(model: nn.Module, optimizer: torch.optim.Optimizer) -> Way:
    def run(batches: Batches) -> None:
        for images, targets in batches:
            optimizer.zero_grad()
            losses = model(images, targets)
            sum(losses.values()).backward()
            optimizer.step()

    return run


def ours(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Way:
    update = engines.GradientUpdate(optimizer)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        distributed.seed_step(0, engine.state.iteration)
        output: dict[str, Any] = update(engine, model, lambda: model(images, targets))
        output["batch_size"] = len(images)
        return output

    trainer = engines.create_trainer(step, model, update)
    handlers.MetricLogger(folder, console=False, bar=False).attach(trainer, every=_LOG_EVERY)
    handlers.attach_checkpoints(trainer, None, {"model": model, "optimizer": optimizer}, folder, resume="never")
    handlers.attach_tensorboard(folder, trainer, optimizer)
    return _rounds_of(trainer)


def _rounds_of(trainer: Engine) -> Way:
    rounds = 0

    def run(batches: Batches) -> None:
        nonlocal rounds
        rounds += 1
        trainer.run(batches, max_epochs=rounds)

    return run


def stock_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, attach: Callable[[Engine, nn.Module], None] | None = None
) -> Way:
    """An Engine with a step as in ignite's examples, for a dict of losses."""

    def step(engine: Engine, batch: Any) -> dict[str, Tensor]:
        optimizer.zero_grad()
        losses = model(*batch)
        loss = sum(losses.values())
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}  # type: ignore[union-attr, dict-item]

    trainer = Engine(step)
    if attach is not None:
        attach(trainer, model)
    return _rounds_of(trainer)


def _names() -> list[str]:
    return ["loss", *(f"loss_{name}" for name in _LOSSES)]


def attach_running_averages(trainer: Engine, model: nn.Module) -> None:
    for name in _names():
        RunningAverage(output_transform=lambda output, name=name: output[name].item()).attach(trainer, name)


def attach_terminate_on_nan(trainer: Engine, model: nn.Module) -> None:
    trainer.add_event_handler(Events.ITERATION_COMPLETED, TerminateOnNan())


def attach_common_handlers(trainer: Engine, model: nn.Module, folder: Path) -> None:
    common.setup_common_training_handlers(
        trainer,
        to_save={"model": model},
        save_every_iters=10**9,
        output_path=str(folder),
        output_names=_names(),
        with_pbars=False,
        log_every_iters=_LOG_EVERY,
        clear_cuda_cache=False,
    )
    if idist.get_rank() == 0:
        common.setup_tb_logging(str(folder), trainer, log_every_iters=_LOG_EVERY)


class _TutorialMeter:
    """The newest values of a loss and its mean, as the meters of many detection tutorials."""

    def __init__(self) -> None:
        self.newest: deque[float] = deque(maxlen=20)
        self.total, self.count = 0.0, 0

    def update(self, value: float) -> None:
        self.newest.append(value)
        self.total += value
        self.count += 1

    def __str__(self) -> str:
        return f"{torch.tensor(list(self.newest)).median().item():.4f} ({self.total / self.count:.4f})"


def lightning(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Way:
    import pytorch_lightning
    from pytorch_lightning.loggers import TensorBoardLogger

    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = self.model(*batch)
            loss = sum(losses.values())
            self.log_dict({"loss": loss, **losses})
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    module, rounds = Module(), 0

    def run(batches: Batches) -> None:
        nonlocal rounds
        rounds += 1
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            logger=TensorBoardLogger(folder, version=rounds),
            log_every_n_steps=_LOG_EVERY,
            max_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(module, batches)

    return run


def tutorial(model: nn.Module, optimizer: torch.optim.Optimizer) -> Way:
    def run(batches: Batches) -> None:
        meters: dict[str, _TutorialMeter] = defaultdict(_TutorialMeter)
        end = time.time()
        for i, (images, targets) in enumerate(batches):
            data_time = time.time() - end
            losses = model(images, targets)
            loss = sum(losses.values())
            reduced = _reduce_dict(losses)
            value = sum(reduced.values()).item()  # type: ignore[union-attr]
            if not math.isfinite(value):
                raise RuntimeError(f"loss is {value}")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
            meters["loss"].update(value)
            for name, term in reduced.items():
                meters[name].update(term.item())
            meters["lr"].update(optimizer.param_groups[0]["lr"])
            meters["data"].update(data_time)
            meters["time"].update(time.time() - end)
            if i % _LOG_EVERY == 0:
                "  ".join(f"{name}: {meter}" for name, meter in meters.items())
            end = time.time()

    return run


def _reduce_dict(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    if idist.get_world_size() == 1:
        return losses
    with torch.no_grad():
        values = torch.stack(list(losses.values()))
        torch.distributed.all_reduce(values)
        return dict(zip(losses, values / idist.get_world_size(), strict=True))


def create_ways(device: str, folder: Path) -> dict[str, Way]:
    model = create_model(device)
    optimizer = create_optimizer(model)
    ours_fused = engines.create_optimizer("sgd", model.parameters(), 1e-3, momentum=0.9)
    ways = {
        "bare": bare(model, optimizer),
        "ours": ours(model, optimizer, folder / "ours"),
        "ours, our optimizer": ours(model, ours_fused, folder / "ours_fused"),
        "tutorials": tutorial(model, optimizer),
        "Engine": stock_engine(model, optimizer),
        "Engine, 7 RunningAverage": stock_engine(model, optimizer, attach_running_averages),
    }
    if idist.get_world_size() == 1:
        ways |= {
            "Engine, TerminateOnNan": stock_engine(model, optimizer, attach_terminate_on_nan),
            "Engine, common handlers": stock_engine(
                model, optimizer, lambda trainer, model: attach_common_handlers(trainer, model, folder / "common")
            ),
        }
    if idist.get_world_size() == 1 and device == "cpu" and find_spec("pytorch_lightning"):
        ways["Lightning, 7 logged values"] = lightning(model, optimizer, folder / "lightning")
    return ways


def measure(ways: dict[str, Way], rounds: int, counted: int, device: str) -> dict[str, float]:
    """Microseconds an iteration of each way, after a round that warms up."""
    costs: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    # One thread does the work where processes do not wait for each other, and nor for a device.
    clock = time.thread_time if idist.get_world_size() == 1 and device == "cpu" else time.perf_counter
    batches = Batches(counted, device, clock)
    names = list(ways)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            idist.barrier()
            ways[name](batches)
            if i:
                costs[name].append(batches.microseconds())
    # What comes at one place alone, as a line of the log, has its share; what comes at no place of its own has none.
    return {name: float(np.mean(np.quantile(np.concatenate(c), 0.1, axis=0))) for name, c in costs.items()}


def main_process(local_rank: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            ways = create_ways(options.device, Path(folder))
            if options.profile:
                profile(ways["ours"], Batches(options.iterations, options.device, time.thread_time))
                return
            for name, cost in measure(ways, options.rounds, options.iterations, options.device).items():
                costs[name].append(cost)
    if idist.get_rank() == 0:
        print(f"{options.processes} processes, {options.repeats} x {options.rounds} rounds of {options.iterations}")
        least = np.array(costs["bare"])
        for name, found in costs.items():
            cost, added = np.mean(found), found - least
            error = added.std(ddof=1) / math.sqrt(len(added)) if len(added) > 1 else math.nan
            print(
                f"{name:26} {cost:8.1f} us an iteration  added {added.mean():7.1f} +- {error:4.1f}"
                f"  ratio {cost / least.mean():.3f}"
            )


def profile(way: Way, batches: Batches) -> None:
    """Print where the time of one way goes."""
    way(batches)
    profiler = cProfile.Profile()
    profiler.runcall(way, batches)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6, help="each with models made anew")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=100, help="in a round; a multiple of 50")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.processes == 1:
        main_process(0, options)
    else:
        distributed.launch(main_process, options, nproc_per_node=options.processes, backend="gloo")


if __name__ == "__main__":
    main()
