"""What happens between a model's losses and its new weights, once for all tasks."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.formats import NonFiniteError, StepTerms, image_ids

__all__ = ["GradientUpdate", "autocast_dtype"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL = 2**13  # elements
_RESERVED = frozenset({"loss", "grad_norm", "loss_scale", "batch_size"})


def autocast_dtype(amp_dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of autocast by its name in a configuration, ``None`` for none.

    Raises:
        ValueError: neither bfloat16 nor float16.
    """
    if amp_dtype is None:
        return None
    for name, dtype in _DTYPES.items():
        if amp_dtype in (name, dtype):
            return dtype
    raise ValueError(f"amp_dtype must be 'bfloat16', 'float16' or None, got {amp_dtype!r}")


class GradientUpdate:
    """Forward, backward and optimizer step, with all that may stand between them.

    In the order of an iteration: autocast, the sum of the loss terms, loss scaling, accumulation without needless
    communication (``no_sync`` of DistributedDataParallel), and where a window of ``accumulate`` iterations ends:
    unscaling, the gradient norm, clipping, the optimizer's step, the moving average, the schedule.

    Windows never cross an epoch: the last one of an epoch, or of a run limited by ``max_iters``, is shorter where
    the iterations do not divide, and its gradient is the mean over the iterations it has. Where a step catches an
    error of ``forward`` and passes over the batch, the window goes on without it; after its last batch, it is dropped.

    No call waits for the device, but for two that are asked for: ``check_every``, and float16 with an optimizer
    that cannot skip a step on the device (build it with ``fused=True`` and nothing waits). A step with overflown
    float16 gradients is skipped and the scale lowered; the schedule counts it all the same, since only the device
    knows of it and a schedule should depend on the iteration alone.

    Call it once in a step, with a function that returns the loss terms. Its state (average, schedule, scale) goes with
    the checkpoints of a trainer that :func:`~ignite_imgtools.engines.create_trainer` has made with it; to those of an
    ``Engine(step)`` of your own you give it in ``to_save``, else average and schedule begin anew at a resume.

    Args:
        optimizer: over the parameters that are trained.
        amp_dtype: ``"bfloat16"``, ``"float16"`` or ``None`` for no autocast; or the ``torch.dtype``. On CPUs without
            native support bfloat16 is many times slower than float32.
        accumulate: iterations whose gradients are averaged before each step, at least 1.
        clip_norm: the largest 2-norm of all gradients together; ``None`` for no limit.
        scaler: ``"auto"`` for a ``GradScaler`` with float16 only, ``None`` for none, or one of your own.
        ema: updated after each step.
        scheduler: a ``torch.optim`` schedule of the optimizer; stepped after each optimizer step, so all its numbers
            are in steps.
        check_every: look at the gradient norm before every n-th step, which waits for the device, and raise instead
            of stepping if it is not finite. With a scaler non-finite gradients are overflows, and it is an error
            only if the loss scale has fallen below 1.

    Raises:
        ValueError: an argument is out of range.
        TypeError: the scheduler needs a metric to step.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=0.1), clip_norm=1.0)
        >>> def step(engine, batch):
        ...     return update(engine, model, lambda: {"error": model(batch).square().mean()})
        >>> sorted(Engine(step).run([torch.ones(4, 2)]).output)
        ['error', 'grad_norm', 'loss']
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        amp_dtype: str | torch.dtype | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        scaler: GradScaler | str | None = "auto",
        ema: ExponentialMovingAverage | None = None,
        scheduler: LRScheduler | None = None,
        check_every: int | None = None,
    ):
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {accumulate}")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0 or None, got {clip_norm}")
        if check_every is not None and check_every < 1:
            raise ValueError(f"check_every must be at least 1 or None, got {check_every}")
        if isinstance(scaler, str) and scaler != "auto":
            raise ValueError(f"scaler must be 'auto', None or a GradScaler, got {scaler!r}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError("ReduceLROnPlateau needs a metric: step it yourself at TrainerEvents.EVALUATION_COMPLETED")
        scheduled = getattr(scheduler, "optimizer", None)
        if scheduled is not None and not any(a is b for a in scheduled.param_groups for b in optimizer.param_groups):
            raise ValueError("scheduler is of another optimizer than the one that is stepped: make it of this one")
        self.optimizer = optimizer
        self.amp_dtype = autocast_dtype(amp_dtype)
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.ema = ema
        self.scheduler = scheduler
        self.check_every = check_every

        device = optimizer.param_groups[0]["params"][0].device
        if scaler == "auto":
            scaler = GradScaler(device.type) if self.amp_dtype == torch.float16 else None
        self.scaler: GradScaler | None = scaler if isinstance(scaler, GradScaler) and scaler.is_enabled() else None
        self._autocast = None if self.amp_dtype is None else torch.autocast(device.type, self.amp_dtype)
        self._grad_norm = torch.zeros((), device=device)
        self._steps = 0
        self._window_size = 1
        self._window_left = 0
        self._window_next = (0, 0)
        self._forward_failed = False
        self._dirty = True  # gradients may be left over from whatever came before

    def __call__(self, engine: Engine, model: nn.Module, forward: Callable[[], Any]) -> dict[str, Tensor]:
        """Do what one iteration of ``engine`` has to do; call it once in a training step.

        Args:
            engine: its ``state.lr`` and ``state.at_step_boundary`` are set.
            model: what ``forward`` calls, with its wrapper.
            forward: returns a dict of loss terms (0-dim tensors), or one loss.

        Returns:
            ``{"loss": their sum, each term, "grad_norm": of the newest step, before clipping}``, with a scaler also
            ``"loss_scale"``; detached and left on the device. The norm is 0 until there has been a step.

        Raises:
            NonFiniteError: ``check_every`` has found gradients that are not finite.
            ValueError: ``forward`` returns something else, a term has a name that the output uses already, none
                depends on a parameter, or ``accumulate`` is above 1 and the length of the epoch is unknown.
        """
        state: Any = engine.state  # our attributes are not declared there
        boundary = self._advance(state)
        state.at_step_boundary = boundary
        state.lr = [group["lr"] for group in self.optimizer.param_groups]
        self._dirty = True
        if boundary:
            output = self._accumulate_gradients(forward)
        else:
            with _no_sync(model):
                output = self._accumulate_gradients(forward)
        if self.scaler is not None:
            # A copy, since update() below changes the scale in place before anybody reads it.
            output["loss_scale"] = self.scaler._get_scale_async().clone()  # type: ignore[union-attr]
        if boundary:
            self._step(state, output)
        output["grad_norm"] = self._grad_norm
        return output

    def _accumulate_gradients(self, forward: Callable[[], Any]) -> dict[str, Tensor]:
        try:
            if self._autocast is None:
                terms = forward()
            else:
                with self._autocast:
                    terms = forward()
        except BaseException:
            self._forward_failed = True
            if not callable(forward):
                raise TypeError(f"forward must be a function that returns loss terms, got {_kind(forward)}") from None
            raise
        loss, gradient, output = _join(terms)
        if not loss.requires_grad:
            raise ValueError(
                f"nothing to train: no loss term of {sorted(output.keys() - {'loss'}) or 'forward'} depends on a "
                "parameter that requires a gradient; is it detached, or computed under no_grad?"
            )
        if self._window_size > 1:
            loss = loss / self._window_size
        (loss if self.scaler is None else self.scaler.scale(loss)).backward(gradient)
        return output

    def _advance(self, state: Any) -> bool:
        """Count this iteration in its window; whether it is the window's last."""
        if self._forward_failed:
            self._forward_failed = False
            if (state.epoch, state.iteration + 1) == self._window_next:
                self._go_back()
        if self._window_left == 0 or self._window_next != (state.epoch, state.iteration):
            if self._dirty:  # a window that was never finished
                _drop_gradients(self.optimizer)
                if self.scaler is not None:  # a step that was broken off may have unscaled them
                    self.scaler._per_optimizer_states.pop(id(self.optimizer), None)
            self._window_size = self._window_left = self._size_of_window(state)
        self._window_left -= 1
        self._window_next = (state.epoch, state.iteration + 1)
        return self._window_left == 0

    def _go_back(self) -> None:
        """Let the window go on with the iteration that failed, which is done again: its gradients are as before."""
        epoch, following = self._window_next
        left = self._window_left + 1
        # One that has just begun begins anew.
        self._window_left, self._window_next = left % self._window_size, (epoch, following - 1)

    def _size_of_window(self, state: Any) -> int:
        if self.accumulate == 1:
            return 1
        if state.epoch_length is None:
            raise ValueError(f"accumulate={self.accumulate} needs epoch_length, since the loader has no length")
        began = getattr(state, "epoch_began_after", None)  # a stock Engine does not say
        first = (state.iteration - 1) % state.epoch_length if began is None else state.iteration - 1 - began
        end = min(first - first % self.accumulate + self.accumulate, state.epoch_length)
        size = end - first
        return size if state.max_iters is None else max(1, min(size, state.max_iters - state.iteration + 1))

    def _step(self, state: Any, output: dict[str, Tensor]) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = _gradients(self.optimizer)
        self._grad_norm = _total_norm(gradients)
        self._steps += 1
        if self.check_every is not None and self._steps % self.check_every == 0:
            self._check(state, output)
        if self.clip_norm is not None:
            # As in torch's clip_grad_norm_: 1e-6 against a division by 0, and no branch, which would wait.
            factor = (self.clip_norm / (self._grad_norm + 1e-6)).clamp_(max=1.0)
            for device, group in _by_device(gradients).items():
                torch._foreach_mul_(group, factor.to(device))
        if self.scaler is None:
            self.optimizer.step()
        else:
            _start_momentum(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        _drop_gradients(self.optimizer)
        self._dirty = False
        if self.ema is not None:
            self.ema.update()
        if self.scheduler is not None:
            self._step_schedule(self.scheduler)

    def _step_schedule(self, scheduler: LRScheduler) -> None:
        if self.scaler is None or getattr(scheduler, "last_epoch", 0) > 0:  # ChainedScheduler has none
            scheduler.step()
            return
        with warnings.catch_warnings():
            # torch would take a skipped first step for a schedule that is stepped before the optimizer.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            scheduler.step()

    def _check(self, state: Any, output: dict[str, Tensor]) -> None:
        norm = float(self._grad_norm)
        if math.isfinite(norm):
            return
        what = f"the gradient norm is {norm}"
        if self.scaler is not None:
            scale = self.scaler.get_scale()
            if scale >= 1:
                return
            what += f" at loss scale {scale}"
        terms = ", ".join(f"{name} {float(value):.6g}" for name, value in output.items())
        raise NonFiniteError(
            f"iteration {state.iteration}: {what}; {terms}; image ids {image_ids(getattr(state, 'batch', None))}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from at a step boundary; plain tensors and numbers."""
        state: dict[str, Any] = {"grad_norm": self._grad_norm, "steps": self._steps}
        for name, part in self._parts().items():
            state[name] = part.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            ValueError: the state has another set of scaler, ema and scheduler than this object; nothing is loaded.
        """
        parts = self._parts()
        saved = sorted(state.keys() - {"grad_norm", "steps"})
        if saved != sorted(parts):
            raise ValueError(f"the saved gradient update has {saved or 'no parts'}, this one {sorted(parts)}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self._grad_norm = state["grad_norm"].to(self._grad_norm.device, copy=True)
        self._steps = int(state["steps"])
        self._window_left, self._forward_failed = 0, False

    def _parts(self) -> dict[str, Any]:
        parts = {"scaler": self.scaler, "ema": self.ema, "scheduler": self.scheduler}
        return {name: part for name, part in parts.items() if part is not None}


def _no_sync(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    # DistributedDataParallel and FSDP have it, inside torch.compile's wrapper too.
    no_sync = getattr(model, "no_sync", None)
    return contextlib.nullcontext() if no_sync is None else no_sync()


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [grad for group in optimizer.param_groups for p in group["params"] if (grad := p.grad) is not None]


def _by_device(tensors: list[Tensor]) -> dict[torch.device, list[Tensor]]:
    # torch.nn.utils sorts by dtype too, which takes longer than the norm of a small model and is not needed here.
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return found


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """2-norm of all gradients together, on the device of the first one."""
    # On a CPU each tensor is a call of its own, which for a bias or a BatchNorm costs more than to copy it.
    small = [grad for grad in gradients if grad.is_cpu and grad.numel() <= _SMALL and not grad.is_sparse]
    norms = [torch.linalg.vector_norm(torch._utils._flatten_dense_tensors(small))] if small else []
    if len(small) < len(gradients):
        others = [grad for grad in gradients if not grad.is_cpu or grad.numel() > _SMALL or grad.is_sparse]
        for group in _by_device(others).values():
            norms += torch._foreach_norm(group)
    if not norms:
        return torch.zeros(())
    if len(norms) == 1:
        return norms[0]
    device = gradients[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]))


def _drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.zero_grad()`` without what torch's own spends on profiling and options."""
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    # torch's fused SGD allocates the momentum in its first step and leaves it uninitialised if that overflows.
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            state = optimizer.state[parameter]
            if parameter.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def _join(terms: Any) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """What to differentiate, with the gradient of the loss by it, and the output with detached values."""
    if isinstance(terms, Tensor):
        _check_scalar("the loss", terms)
        return terms, None, {"loss": terms.detach()}
    if type(terms) is not dict and not isinstance(terms, Mapping):
        raise ValueError(f"forward must return a dict of loss terms or one loss, got {_kind(terms)}")
    if not _RESERVED.isdisjoint(terms):
        raise ValueError(f"a loss term must not be called {sorted(_RESERVED.intersection(terms))}: rename it")
    values = list(terms.values())
    try:
        # One operation for all of them, forward, backward and to detach, instead of one for each.
        stacked = torch.stack(values)
    except (TypeError, RuntimeError):
        stacked = None
    if stacked is None or stacked.ndim != 1:
        if not values or not all(isinstance(value, Tensor) for value in values):
            raise ValueError(f"forward must return loss terms, got {terms!r}")
        for name, value in terms.items():
            _check_scalar(f"the loss term {name!r}", value)
        loss = functools.reduce(operator.add, values)
        return loss, None, {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}
    # Made anew: where a term is a parameter itself, autograd may keep a view of this as the parameter's gradient.
    return stacked, torch.ones_like(stacked), StepTerms.of(terms, stacked.detach())


def _check_scalar(what: str, value: Tensor) -> None:
    if value.numel() != 1:
        raise ValueError(f"{what} must be one number, got {list(value.shape)}: take its mean or sum")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
