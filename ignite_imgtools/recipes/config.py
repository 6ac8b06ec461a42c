"""The flags that all recipes share."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from torch import nn

from ignite_imgtools import distributed
from ignite_imgtools.data.make_data import make_data

__all__ = [
    "ConfigError",
    "RunConfig",
    "built_in_data",
    "config_from_dict",
    "config_to_dict",
    "launch",
    "proportional_steps",
    "refuse_batches_of_one",
    "refused_arguments",
]

_Dir = tyro.conf.arg(metavar="DIR")
_Int = tyro.conf.arg(metavar="N")
_Float = tyro.conf.arg(metavar="X")


class ConfigError(ValueError):
    """A flag has a value it cannot have: one line that names the flag, what was expected and what came."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every recipe asks. ``None`` stands for the recipe's own default, filled in before a run starts."""

    FULL: ClassVar[dict[str, Any]] = {}
    """Defaults for flags that are ``None``."""
    SMALL: ClassVar[dict[str, Any]] = {}
    """The same where the recipe trains on the built-in set on a CPU: a few minutes on two cores."""

    data: Annotated[Path | None, _Dir] = None
    """Folder of the data set. Without it the recipe trains on the built-in set."""
    data_format: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    """Format of the data set (`ignite-imgtools check --help` lists them). By default found from the folder's layout."""
    val_fraction: Annotated[float, _Float] = 0.2
    """Part of the images held out for validation where the data set has no validation part; drawn by the seed."""
    output_dir: Annotated[Path | None, _Dir] = None
    """Run folder: settings, logs, checkpoints, plots. By default `runs/RECIPE` (`..._imported`, `..._find_lr`); of
    an evaluation that of its run, or, with --data of another folder NAME than the run's, `eval-NAME` in it."""
    epochs: Annotated[int | None, _Int] = None
    """Number of epochs."""
    max_iterations: Annotated[int | None, _Int] = None
    """Stop after this many iterations, however many epochs that is."""
    batch_size: Annotated[int | None, _Int] = None
    """Images in a batch, over all processes together."""
    lr: Annotated[float | None, _Float] = None
    """Learning rate after the warm-up."""
    eval_every: Annotated[int | None, _Int] = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    num_workers: Annotated[int, _Int] = 0
    """Worker processes that load images, for each training process."""
    device: str = "auto"
    """Device to train on: cpu, cuda, or auto, which is cuda where there is one."""
    nproc_per_node: Annotated[int | None, _Int] = None
    """Processes to start on this machine. Not with torchrun or SLURM, which start them."""
    stuck_after: Annotated[float, _Float] = distributed.STUCK_AFTER
    """Seconds without any progress of a process after which all of several processes are ended; 0 waits for ever."""
    amp_dtype: Annotated[Literal["bfloat16", "float16"] | None, tyro.conf.arg(metavar="bfloat16|float16")] = None
    """Compute the forward pass in this type (mixed precision). A gain on GPUs; on most CPUs 8 to 20 times slower."""
    channels_last: bool = False
    """Keep images and weights channels-last. A gain on GPUs with --amp-dtype; on a CPU 0.9 to 1.4 of the time."""
    compile: bool = False
    """Compile the network, of a detector its backbone, in minutes. A gain on GPUs; on a CPU 0.9 to 1.8 of the time."""
    compile_backend: Annotated[str, tyro.conf.arg(metavar="NAME")] = "inductor"
    """Backend for --compile."""
    accumulate: Annotated[int, _Int] = 1
    """Batches whose gradients are averaged before each optimizer step."""
    clip_norm: Annotated[float | None, _Float] = None
    """Largest norm of the gradient; a longer one is scaled down to it."""
    ema_decay: Annotated[float | None, _Float] = None
    """Keep a moving average of the weights with this decay, such as 0.9998, and evaluate that."""
    weights: Annotated[str, tyro.conf.arg(metavar="none|default|PATH")] = "none"
    """Weights to start from: none, default (torchvision's pretrained ones) or a file. The part that fits is loaded."""
    resume: Annotated[str, tyro.conf.arg(metavar="auto|never|PATH")] = "auto"
    """Go on from the newest good checkpoint in the run folder, never, or from this checkpoint file."""
    seed: Annotated[int, _Int] = 0
    """Seed of everything random: initial weights, order, augmentation, dropout."""
    log_every: Annotated[int | None, _Int] = None
    """Iterations between two log lines."""
    profile: bool = False
    """Profile five iterations, after three: a table of where their time goes, and a trace, in the run folder."""
    checkpoint_every: Annotated[int | None, _Int] = None
    """Iterations between two checkpoints within an epoch; one at the end of each epoch is always taken."""
    on_write_error: Literal["stop", "continue"] = "stop"
    """What to do when a checkpoint cannot be written, as on a full disk: stop, or go on and try again with the next."""
    group_by: Literal["shape", "aspect", "none"] = "shape"
    """Make batches of images of the same padded shape, of similar aspect ratio, or of any images."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """What to do with an image or annotation that cannot be used: stop, or leave it out and count it."""
    drop_last: bool = False
    """Leave out the last training batch of an epoch where it is smaller than the others."""

    def filled(self, name: str) -> Any:
        """With every value that is ``None`` chosen, but those that depend on the data, after :meth:`check`.

        Args:
            name: of the recipe, for its run folder.

        Raises:
            ConfigError: as :meth:`check`.
        """
        self.check()
        fixed = self.SMALL if self.is_small else self.FULL
        # The built-in set has few iterations in an epoch.
        chosen = {"log_every": 10 if self.is_small else 50, **fixed, **self.defaults(fixed)}
        chosen["output_dir"] = Path("runs") / name
        missing = {flag: value for flag, value in chosen.items() if getattr(self, flag) is None}
        return dataclasses.replace(self, **missing)

    def defaults(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults that follow from other flags, for a recipe to override.

        Args:
            fixed: :attr:`FULL` or :attr:`SMALL`, which these go before.
        """
        return {}

    @property
    def is_small(self) -> bool:
        """Whether the built-in set is trained on a CPU, with :attr:`SMALL`."""
        return self.data is None and self.device_type == "cpu"

    def check(self) -> None:
        """Check every flag that can be checked without looking at the data.

        Raises:
            ConfigError: in one line.
        """
        for name in (
            "epochs",
            "max_iterations",
            "batch_size",
            "eval_every",
            "nproc_per_node",
            "accumulate",
            "log_every",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"--{name.replace('_', '-')} must be a positive number, got {value}")
        if not self.stuck_after >= 0:
            raise ConfigError(f"--stuck-after must be 0 or more, got {self.stuck_after}")
        if self.num_workers < 0:
            raise ConfigError(f"--num-workers must be 0 or more, got {self.num_workers}")
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"--val-fraction must lie between 0 and 1, got {self.val_fraction}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"--ema-decay must lie between 0 and 1, got {self.ema_decay}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, got {self.seed}")
        if self.weights not in ("none", "default") and not Path(self.weights).is_file():
            raise ConfigError(f"--weights must be none, default or a file; there is no file {self.weights}")
        if self.resume not in ("auto", "never") and not Path(self.resume).is_file():
            raise ConfigError(f"--resume must be auto, never or a checkpoint; there is no file {self.resume}")
        if self.data is not None and not self.data.is_dir():
            raise ConfigError(f"--data must be a folder; there is no folder {self.data}")
        if self.compile and self.compile_backend not in _compile_backends():
            known = ", ".join(_compile_backends())
            raise ConfigError(f"--compile-backend must be one of {known}, got {self.compile_backend!r}")
        if self.compile and self.compile_backend == "inductor" and self.device_type == "cpu" and not _has_compiler():
            raise ConfigError(
                "--compile needs a C++ compiler on a CPU, g++ or clang++ or $CXX: install one or leave it out"
            )
        if self.device_type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--device {self.device}: no CUDA device is at hand; leave it out or give cpu")
        if self.batch_size is not None and self.nproc_per_node is not None and self.batch_size < self.nproc_per_node:
            raise ConfigError(
                f"--batch-size is the total over all processes: {self.batch_size} is less than one image for each of "
                f"--nproc-per-node {self.nproc_per_node}"
            )

    def torch_device(self, local_rank: int) -> torch.device:
        """The device of the process ``local_rank`` of this machine."""
        if self.device_type == "cuda" and ":" not in self.device:
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        return torch.device(self.device if self.device_type == "cuda" else "cpu")

    def train_loader_options(self) -> dict[str, Any]:
        """What the loader of the training set takes of these flags."""
        return {
            "shuffle": True,
            "group_by": None if self.group_by == "none" else self.group_by,
            "seed": self.seed,
            "num_workers": self.num_workers,
            "on_bad_sample": self.on_bad_sample,
            "drop_last": self.drop_last,
        }

    @property
    def backend(self) -> str:
        """What processes communicate through: ``"nccl"`` between GPUs, else ``"gloo"``."""
        return "nccl" if self.device_type == "cuda" else "gloo"

    @property
    def device_type(self) -> str:
        """``"cpu"`` or ``"cuda"``.

        Raises:
            ConfigError: the device is neither, nor ``"auto"``.
        """
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"--device must be auto, cpu or cuda, got {self.device!r}")
        return self.device.split(":")[0]


def _compile_backends() -> list[str]:
    return sorted({"eager", "aot_eager", *torch.compiler.list_backends()})


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


@contextlib.contextmanager
def refused_arguments() -> Iterator[None]:
    """Let a ValueError of a component say which flag is wrong: it becomes a :class:`ConfigError`. Also a decorator."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(str(error)) from error


def proportional_steps(steps: Sequence[int], of_epochs: int, epochs: int) -> tuple[int, ...]:
    """Epochs after which the learning rate falls, at the same parts of a training of another length.

    >>> proportional_steps((16, 22), 26, 13)
    (8, 11)
    """
    return tuple(sorted({max(step * epochs // of_epochs, 1) for step in steps}))


def refuse_batches_of_one(model: nn.Module, loader: Any, size: tuple[int, int]) -> None:
    """Refuse what batch normalisation would raise an epoch later, in training on a last batch of a single image.

    Args:
        model: called with an image ``[1, 3, H, W]``; left as it is.
        loader: of the training set.
        size: height and width of its images in pixels.

    Raises:
        ConfigError: some batch has one image on a process, and ``model`` cannot be trained on that.
    """
    if loader.batch_sampler.smallest_share > 1:
        return
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), torch.random.fork_rng():
            copy.deepcopy(model).train()(torch.zeros(1, 3, *size, device=device))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "a batch of the epoch has a single image on a process, and this model's batch normalisation needs two: "
            "choose another --batch-size, or leave such a last batch out with --drop-last"
        ) from error


def launch(config: RunConfig, function: Callable[..., None], *args: Any) -> None:
    """``function(local_rank, config, *args)`` on the processes that ``config`` asks for."""
    distributed.launch(
        function,
        config,
        *args,
        nproc_per_node=config.nproc_per_node,
        backend=config.backend,
        stuck_after=config.stuck_after,
    )


def built_in_data(folder: Path, data_format: str) -> Path:
    """The built-in data set in ``folder``, written there by one process if it is not there yet; call it on all."""
    distributed.on_main_process(lambda: None if folder.is_dir() else make_data(data_format, folder))
    return folder


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """``config`` as what JSON and a checkpoint can hold."""
    return {
        key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }


def config_from_dict(kind: type[RunConfig], values: dict[str, Any]) -> Any:
    """The inverse of :func:`config_to_dict`; entries that ``kind`` does not know are left out."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    kept: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known
    }
    for key in ("data", "val_data", "output_dir", "person_detections"):
        if kept.get(key) is not None:
            kept[key] = Path(kept[key])
    return kind(**kept)
