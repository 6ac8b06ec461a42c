"""Start a model from weights that someone else has trained: load the part that fits, and say which."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ignite_imgtools.distributed import unwrap_model

__all__ = ["LoadedWeights", "load_weights", "read_weights"]

_WRAPPERS = ("module.", "_orig_mod.")
_CHECKPOINT_KEYS = ("model", "state_dict", "model_state_dict")
_AVERAGED = "n_averaged"  # how many weights torch's AveragedModel has averaged

# What :func:`watch_loading` is told.
_watching: ContextVar[tuple[str | None, list[LoadedWeights] | None]] = ContextVar("watching", default=(None, None))


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
    """Which weights were loaded, by the names of the model's state dict; ``str()`` gives a line for a log."""

    source: str
    loaded: tuple[str, ...]
    """Now have the value of the file."""
    missing: tuple[str, ...]
    """Of the model, not in the file: left as they were."""
    other_shape: tuple[str, ...]
    """In both, of another shape: left as they were."""
    unexpected: tuple[str, ...]
    """Of the file, not in the model: not used."""

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} weights loaded"]
        for names, what in (
            (self.other_shape, "left as they were for another shape"),
            (self.missing, "not in the file"),
            (self.unexpected, "of the file not used"),
        ):
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)


def load_weights(
    model: nn.Module,
    weights: str | Path | Mapping[str, Tensor],
    *,
    prefixes: Sequence[str] = ("",),
    source: str | Path | None = None,
) -> LoadedWeights:
    """Load into ``model`` what fits by name and shape.

    Args:
        model: with or without wrapper.
        weights: a file (see :func:`read_weights`) or a state dict.
        prefixes: put before all names; the one that fits most weights is taken. ``("", "backbone.body.")`` accepts a
            whole detector, or the classifier that its backbone comes from.
        source: where a state dict comes from, for messages.

    Returns:
        What was loaded and what not; also logged.

    Raises:
        ValueError: the file is no weights, or none of them fits.
        FileNotFoundError: there is no such file.
    """
    source = source or ("state dict" if isinstance(weights, Mapping) else weights)
    state = dict(weights) if isinstance(weights, Mapping) else read_weights(weights)
    model = unwrap_model(model)
    own = model.state_dict()
    prefix = max(prefixes, key=lambda prefix: sum(prefix + name in own for name in state))
    state = {prefix + name: value for name, value in state.items()}
    other_shape = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    # Names that the model does not know are handed on: its modules translate those of their older versions.
    result = model.load_state_dict({name: state[name] for name in state if name not in other_shape}, strict=False)
    missing = set(result.missing_keys) - set(other_shape)
    loaded = [name for name in own if name not in missing and name not in other_shape]
    # Counters do not make a file one of weights.
    missing -= {name for name in missing if name.endswith("num_batches_tracked")}
    report = LoadedWeights(
        str(source),
        tuple(loaded),
        tuple(name for name in own if name in missing),
        tuple(other_shape),
        tuple(sorted(result.unexpected_keys)),
    )
    if not any(own[name].is_floating_point() for name in loaded):
        raise ValueError(f"no weights fit the model. {report}")
    logging.getLogger(__name__).info("%s", report)
    if (reports := _watching.get()[1]) is not None:
        reports.append(report)
    return report


@dataclasses.dataclass(frozen=True)
class ForeignCheckpoint:
    """Weights in a file that any program has written, and the names of what lies beside them."""

    weights: dict[str, Tensor]
    where: str
    """In the file, as words to put behind its name."""
    left: tuple[str, ...]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file: a state dict, or a checkpoint that holds one under ``"model"`` or ``"state_dict"``.

    Names lose the ``module.`` and ``_orig_mod.`` of wrappers. No code in the file is executed. Checkpoints of the
    widely copied training scripts and of torchvision's references, with an ``argparse.Namespace`` in them, are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; names the file.
    """
    return read_checkpoint(path, _watching.get()[0]).weights


def read_checkpoint(path: str | Path, key: str | None = None) -> ForeignCheckpoint:
    """The same, with what else the file holds.

    Args:
        key: of the weights in it, such as ``"model_ema"``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file; give a path, 'default' or 'none'")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch stores; a compressed entry could unfold to any size.
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("an entry is compressed, which torch.save never does")
        # Training scripts put their parsed arguments beside the weights: a Namespace holds values, and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"weights {path}: not a file of weights that can be read safely ({reason})") from error
    key = _find_key(content, str(path), key)
    if key is None:
        return ForeignCheckpoint(_without_wrappers(_tensors(content, str(path))), "", ())
    epoch = content.get("epoch")
    where = f", {key!r}" + (f" after epoch {epoch}" if isinstance(epoch, int) else "")
    left = tuple(str(name) for name in content if name not in (key, "epoch"))
    return ForeignCheckpoint(_without_wrappers(_tensors(content[key], str(path))), where, left)


@contextlib.contextmanager
def watch_loading(key: str | None = None) -> Iterator[list[LoadedWeights]]:
    """Get to know what :func:`load_weights` loads meanwhile, whoever calls it.

    Args:
        key: of the weights in files that hold more than those.
    """
    reports: list[LoadedWeights] = []
    token = _watching.set((key, reports))
    try:
        yield reports
    finally:
        _watching.reset(token)


def default_weights(enum_member: Any) -> dict[str, Tensor]:
    """The state dict of a torchvision ``WeightsEnum`` member, downloaded once into torch's hub folder.

    Raises:
        ValueError: it cannot be downloaded; says from where and whereto.
    """
    # One process of a machine downloads, the others find the file.
    with idist.one_rank_first(local=True):
        try:
            state: dict[str, Tensor] = enum_member.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
        except OSError as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            target = folder / os.path.basename(enum_member.url)  # noqa: PTH119  (of a URL)
            raise ValueError(f"cannot download {enum_member.url} ({error}); put that file at {target}") from error
    return state


def load_detector_weights(
    model: nn.Module, weights: str | Path, whole: Any, backbone: Callable[[], Mapping[str, Tensor]]
) -> None:
    """Load what ``weights`` asks for into a detector with ``model.backbone.body``.

    Args:
        weights: ``"none"``; ``"default"``; or a file of a detector or of a classifier.
        whole: torchvision's weights of the whole detector, taken by default; ``None`` where it has none.
        backbone: gives those of the backbone, taken by default where there are none of the whole.

    Raises:
        ValueError: the weights cannot be had, or do not fit.
    """
    if weights == "none":
        return
    if weights != "default":
        load_weights(model, weights, prefixes=("", "backbone.body."))
    elif whole is not None:
        load_weights(model, default_weights(whole))
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # with which these weights were trained
    else:
        load_weights(model, backbone(), prefixes=("backbone.body.",))


def _find_key(content: Any, where: str, key: str | None) -> str | None:
    if not isinstance(content, Mapping):
        return None
    if key is not None and not isinstance(content.get(key), Mapping):
        found = ", ".join(str(name) for name, value in content.items() if isinstance(value, Mapping))
        raise ValueError(f"weights {where}: no weights under {key!r}; there may be some under: {found or 'nothing'}")
    return key or next((name for name in _CHECKPOINT_KEYS if isinstance(content.get(name), Mapping)), None)


def _tensors(content: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        found = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"weights {where}: expected a state dict or a checkpoint with 'model', found {found}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in state if name != _AVERAGED):
        state.pop(_AVERAGED, None)
    while True:
        for wrapper in _WRAPPERS:
            if all(name.startswith(wrapper) for name in state):
                state = {name.removeprefix(wrapper): value for name, value in state.items()}
                break
        else:
            return state
