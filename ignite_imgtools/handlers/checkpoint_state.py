"""What a checkpoint holds: taken from live objects, compared with them, loaded into all of them or none."""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ignite
import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import ignite_imgtools
from ignite_imgtools.distributed import unwrap_model
from ignite_imgtools.formats import resumables
from ignite_imgtools.handlers.checkpoint_file import CheckpointError

__all__ = [
    "RESERVED",
    "HostBuffers",
    "collect_state",
    "differences",
    "load_item",
    "load_state",
    "non_finite_parameters",
    "state_of",
    "tensor_differences",
    "to_host",
]

RESERVED = ("format", "version", "versions", "kinds", "trainer", "resumables", "checkpoints")
_MAX_LISTED = 12
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def collect_state(trainer: Engine, objects: Mapping[str, Any]) -> dict[str, Any]:
    """The state of ``objects``, of the trainer and of its resumables, live: tensors are not copied.

    Call it on all processes: an object's ``state_dict`` may communicate.
    """
    state: dict[str, Any] = {name: state_of(item) for name, item in objects.items()}
    engine_state = trainer.state
    state["trainer"] = {
        "iteration": engine_state.iteration,
        "epoch": engine_state.epoch,
        "epoch_length": engine_state.epoch_length,
        "epoch_began_after": getattr(engine_state, "epoch_began_after", None),
        "epoch_is_open": getattr(engine_state, "epoch_is_open", None),
        "max_epochs": engine_state.max_epochs,
        "max_iters": engine_state.max_iters,
        "user": {key: getattr(engine_state, key) for key in trainer.state_dict_user_keys},
    }
    state["resumables"] = {name: item.state_dict() for name, item in resumables(trainer).items()}
    state["kinds"] = {name: type(item).__name__ for name, item in objects.items() if not isinstance(item, nn.Module)}
    state["versions"] = {
        "ignite_imgtools": ignite_imgtools.__version__,
        "torch": str(torch.__version__),
        "ignite": ignite.__version__,
    }
    return state


def state_of(item: Any) -> dict[str, Any]:
    """``item.state_dict()``, live; that of a module with keys free of what wrappers add."""
    if not isinstance(item, nn.Module):
        return item.state_dict()
    module = unwrap_model(item)
    state, names = module.state_dict(), _clean_names(module)
    return {names(key): value for key, value in state.items()}


def _clean_names(module: nn.Module) -> Callable[[str], str]:
    """How keys of the state dict read without the wrappers around submodules (``torch.compile``, DDP)."""
    inserted = []
    for name, child in module.named_modules(remove_duplicate=False):
        if isinstance(child, DistributedDataParallel | nn.DataParallel):
            inserted.append((f"{name}.module.", f"{name}."))
        elif name and "_orig_mod" in child._modules:
            inserted.append((f"{name}._orig_mod.", f"{name}."))
    inserted.reverse()  # the innermost first, whose prefix holds those around it

    def clean(key: str) -> str:
        for prefix, without in inserted:
            if key.startswith(prefix):
                key = without + key[len(prefix) :]
        return key

    return clean


class HostBuffers:
    """Host memory that one snapshot after another is copied into: pinned for tensors of a CUDA device.

    The copies from a device are only started: call :meth:`wait` before the buffers are read. A new snapshot
    overwrites the one before.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._devices: set[torch.device] = set()
        self._copied: list[torch.cuda.Event] = []

    def copy(self, path: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            # In its memory format: fused optimizers go through parameters and loaded states side by side.
            buffer = torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=tensor.is_cuda)
            self._buffers[path] = buffer
        if tensor.is_cuda:
            self._devices.add(tensor.device)
        return buffer.copy_(tensor, non_blocking=True)

    def mark(self) -> None:
        """Say that all copies of a snapshot have been started."""
        self._copied = []
        for device in self._devices:
            # What follows on the stream, as the next optimizer step, comes after the copies.
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._copied.append(event)

    def wait(self) -> None:
        """Wait until the copies that were started are done; from any thread."""
        for event in self._copied:
            event.synchronize()


def to_host(value: Any, buffers: HostBuffers | None = None, path: str = "") -> Any:
    """``value`` with new containers and all tensors on the CPU.

    Args:
        buffers: what tensors are copied into; without it tensors that are on the CPU already are not copied.

    Raises:
        CheckpointError: something in it could not be read back by ``torch.load(weights_only=True)``; names it.
    """
    if isinstance(value, Tensor):
        if type(value) is not Tensor or value.requires_grad:
            value = value.detach().as_subclass(Tensor)
        if buffers is not None and value.layout == torch.strided:
            return buffers.copy(path, value)
        value = value.cpu()
        # Of a view the whole storage would be written.
        strided = value.layout == torch.strided
        return value.clone() if strided and value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, np.bool_ | np.number):
        return value.item()
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        items = {key: to_host(item, buffers, f"{path}/{key}") for key, item in value.items()}
        return Counter(items) if isinstance(value, Counter) else items
    if type(value) in (list, tuple):
        return type(value)(to_host(item, buffers, f"{path}/{index}") for index, item in enumerate(value))
    raise CheckpointError(
        f"{path.lstrip('/')}: a {type(value).__module__}.{type(value).__name__} cannot go into a checkpoint, which "
        "holds tensors, numbers, strings, lists and dicts: return those from its state_dict"
    )


def non_finite_parameters(objects: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Names of the parameters of the modules among ``objects`` that are not finite in ``state``, on the host."""
    found = []
    for name, item in objects.items():
        if not isinstance(item, nn.Module):
            continue
        module = unwrap_model(item)
        clean = _clean_names(module)
        for key, _ in module.named_parameters():
            value = state[name].get(clean(key))
            if value is not None and not _is_finite(value):
                found.append(f"{name}.{clean(key)}")
    return found


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # float8 has no arithmetic
        tensor = tensor.float()
    # The smallest and the largest, in one pass and without a mask; both are NaN if anything is.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def differences(trainer: Engine, objects: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """In what a checkpoint does not fit; empty if it fits. Nothing is changed."""
    registered, loaded = resumables(trainer), state.get("resumables", {})
    # What they say is in words; shapes that differ are often no more than what follows from it.
    found = _resumable_differences(registered, loaded)
    saved = {name for name in state if name not in RESERVED}
    found += _missing_and_extra("", saved, set(objects))
    for name in objects:
        if name in saved:
            kind = state.get("kinds", {}).get(name, type(objects[name]).__name__)
            found += _named(name, _item_differences(objects[name], state[name], kind))
    found += _missing_and_extra("resumable ", set(loaded), set(registered))
    written, here = state["trainer"]["epoch_length"], trainer.state.epoch_length
    if None not in (written, here) and written != here:
        found.append(f"an epoch has {written} iterations in the file, {here} here: other data or batch size")
    missing = sorted(set(trainer.state_dict_user_keys) - state["trainer"].get("user", {}).keys())
    found += [f"the file has no trainer.state.{key}" for key in missing]
    return found


def _resumable_differences(registered: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[str]:
    found = []
    for name in sorted(registered.keys() & loaded.keys()):
        check = getattr(registered[name], "check_state_dict", None)
        found += _named(name, check(loaded[name]) if check else [])
    return found


def _named(name: str, lines: list[str]) -> list[str]:
    return [f"{name}: {', '.join(lines)}"] if lines else []


def _missing_and_extra(kind: str, saved: set[str], own: set[str]) -> list[str]:
    return [f"the file has no {kind}{name!r}" for name in sorted(own - saved)] + [
        f"the file has a {kind}{name!r}, this run has none" for name in sorted(saved - own)
    ]


def _item_differences(item: Any, saved: Any, kind: str) -> list[str]:
    if not isinstance(saved, Mapping):
        return [f"the file holds a {type(saved).__name__}, not a state dict"]
    if hasattr(item, "check_state_dict"):
        return list(item.check_state_dict(saved))
    if isinstance(item, nn.Module):
        return tensor_differences(saved, state_of(item))
    if kind != type(item).__name__:
        return [f"a {kind} in the file, a {type(item).__name__} here"]
    if isinstance(item, torch.optim.Optimizer):
        return list(_optimizer_differences(item, saved))
    return []


def tensor_differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """In which keys, shapes and dtypes two state dicts of a model differ."""
    lines = [f"missing key {key}" for key in own if key not in saved]
    lines += [f"unexpected key {key}" for key in saved if key not in own]
    for key in own:
        a, b = saved.get(key), own[key]
        if key in saved and isinstance(b, Tensor) and _signature(a) != _signature(b):
            lines.append(f"{key} is {_signature(a)} in the file, {_signature(b)} here")
    return _limited(lines)


def _optimizer_differences(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> Iterator[str]:
    own_groups, groups = optimizer.param_groups, saved.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(g, Mapping) and "params" in g for g in groups):
        yield "the file holds no parameter groups"
        return
    own_counts, counts = ([len(g["params"]) for g in gs] for gs in (own_groups, groups))
    if own_counts != counts:
        yield f"parameter groups of {counts} parameters in the file, of {own_counts} here"
        return
    parameters = [p for group in own_groups for p in group["params"]]
    order = [i for group in groups for i in group["params"]]
    lines = []
    for index, parameter in zip(order, parameters, strict=True):
        for key, value in saved.get("state", {}).get(index, {}).items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            # Of torch's optimizers only Adafactor keeps tensors of another shape: the moments of rows and columns.
            known = type(optimizer).__module__.startswith("torch.optim") and not key.endswith("_var")
            if known and value.shape != parameter.shape:
                lines.append(
                    f"{key} of parameter {index} is {_signature(value)} in the file, {_signature(parameter)} here"
                )
    yield from _limited(lines)


def _signature(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _limited(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LISTED
    return lines if more <= 0 else [*lines[:_MAX_LISTED], f"and {more} more"]


def load_state(trainer: Engine, objects: Mapping[str, Any], state: Mapping[str, Any]) -> Callable[[], None]:
    """Load ``state`` into ``objects`` and the trainer's resumables, then set the trainer's position.

    If an object refuses, those loaded before get back what they had. Call it on all processes.

    Returns:
        What undoes the loading, for the case that another process fails.

    Raises:
        CheckpointError: an object refuses its state; names it and repeats what it says.
    """
    # Copies even of what is on the CPU: loading writes into these very tensors.
    items = {name: (item, state[name]) for name, item in objects.items()}
    items |= {f"resumables/{n}": (item, state["resumables"][n]) for n, item in resumables(trainer).items()}
    before = {name: to_host(state_of(item), HostBuffers(), name) for name, (item, _) in items.items()}
    followed = ("epoch_began_after", "epoch_is_open")
    attributes = ("iteration", "epoch", "epoch_length", *followed, *trainer.state_dict_user_keys)
    position = {key: getattr(trainer.state, key) for key in attributes if hasattr(trainer.state, key)}
    place_in_epoch = trainer._init_iter

    def undo(names: Iterable[str] = tuple(items)) -> None:
        for name in names:
            load_item(items[name][0], before[name])
        for key, value in position.items():
            setattr(trainer.state, key, value)
        trainer._init_iter = place_in_epoch

    loaded: list[str] = []
    for name, (item, saved) in items.items():
        try:
            load_item(item, saved)
        except BaseException as error:
            undo(loaded)
            with contextlib.suppress(Exception):  # it may be half loaded, or refuse whatever it is given
                load_item(item, before[name])
            if not isinstance(error, Exception):  # an interrupt
                raise
            raise CheckpointError(f"{name}: {' '.join(str(error).split())}") from error
        loaded.append(name)
    saved_position = state["trainer"]
    iteration, epoch_length = saved_position["iteration"], saved_position["epoch_length"]
    trainer.state.iteration = iteration
    trainer.state.epoch_length = epoch_length or trainer.state.epoch_length
    trainer.state.epoch = iteration // trainer.state.epoch_length if trainer.state.epoch_length else 0
    began = saved_position.get("epoch_began_after")  # not in files of earlier versions
    if began is not None and trainer.state.epoch_length == epoch_length:
        # An epoch may have been cut short: a product of length and epochs does not say where this one is.
        done, is_open = iteration - began, saved_position.get("epoch_is_open")
        if epoch_length and done >= epoch_length:  # whole, and saved before its end was told
            done, is_open = 0, False
        trainer._init_iter = done
        # ignite counts an epoch where it begins, and will do so again; it may have been saved before its first step.
        is_open = done > 0 if is_open is None else is_open
        trainer.state.epoch = saved_position["epoch"] - bool(is_open)
        state_of_run: Any = trainer.state
        state_of_run.epoch_began_after, state_of_run.epoch_is_open = iteration - done, False
    for key in trainer.state_dict_user_keys:
        setattr(trainer.state, key, saved_position["user"][key])
    return undo


def load_item(item: Any, saved: Any) -> None:
    """Load what :func:`state_of` returned."""
    if not isinstance(item, nn.Module):
        item.load_state_dict(saved)
        return
    module = unwrap_model(item)
    clean = _clean_names(module)
    module.load_state_dict(OrderedDict((key, saved[clean(key)]) for key in module.state_dict()))
