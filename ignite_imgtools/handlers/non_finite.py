"""Stop a run whose loss or gradients are not finite, without waiting for the device."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ignite_imgtools.distributed import all_gather_strings
from ignite_imgtools.formats import (
    NonFiniteError,
    StepTerms,
    TrainerEvents,
    one_line,
    register_trainer_events,
)
from ignite_imgtools.handlers.engine_handlers import move_to_front, remove_handler

__all__ = ["NonFiniteWatch"]

_NUMPY_DTYPES = frozenset((torch.float32, torch.float64, torch.float16))


class NonFiniteWatch:
    """Reads the gradient norm of each optimizer step one iteration later, when it has reached the host by itself.

    What is looked at is ``output["grad_norm"]`` of the training step, which is equal on all processes once gradients
    are reduced, so that all of them raise after the same iteration. A step without one is judged by its ``"loss"``;
    with several processes those are summed first, a collective an iteration.

    A loss can be not finite where its gradient is, as the mean over nothing. It is looked at where a MetricLogger
    writes a line: there its mean over the iterations since the line before is known.

    With ``"loss_scale"`` in the output, norms that are not finite while all losses are finite are overflows, which
    the scaler answers by a skipped step and a lower scale; only a long row of them is an error.

    A checkpoint, an evaluation and the end of the run first read what is still on its way (:meth:`flush`), so none of
    them sees weights that are not finite. The watch is ``trainer.state.non_finite_watch``.

    Args:
        max_overflows: how many skipped steps in a row are taken for overflows. A scale that starts at 65536 and is
            halved each time is 2^-48 after 64: then the gradients themselves are not finite.

    Raises:
        NonFiniteError: raised by ``trainer.run`` on every process, with the same line: iteration, and of each process
            at fault rank, loss terms and image ids of the batches that went into the step.
    """

    def __init__(self, max_overflows: int = 64):
        self._max_overflows = max_overflows
        self._overflows = 0
        self._trainer: Engine | None = None
        self._window: list[_Record] = []
        self._pending: _Pending | None = None
        self._mailbox: _Mailbox | None = None
        self._width = 0  # of the outputs whose entries that are no numbers are these
        self._no_numbers: tuple[str, ...] = ()

    def attach(self, trainer: Engine) -> None:
        """Watch ``trainer``, in place of another watch it may have."""
        state: Any = trainer.state
        known = getattr(state, "non_finite_watch", None)
        if known is not None:
            known.detach()
        self._trainer = trainer
        state.non_finite_watch = self
        register_trainer_events(trainer)
        for event, handler in self._handlers():
            trainer.add_event_handler(event, handler)

    def detach(self) -> None:
        """Leave the trainer; what is still on its way is not looked at."""
        if self._trainer is None:
            return
        for event, handler in self._handlers():
            remove_handler(self._trainer, event, handler)
        state: Any = self._trainer.state
        state.non_finite_watch = None
        self._trainer = self._pending = None

    def flush(self) -> None:
        """Read what is still on its way; call it on all processes.

        Raises:
            NonFiniteError: it is not finite.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._check(pending)

    def _handlers(self) -> list[tuple[Any, Any]]:
        return [
            (Events.STARTED, self._on_started),
            (Events.EPOCH_STARTED, self._on_epoch_started),
            (Events.ITERATION_COMPLETED, self._on_iteration_completed),
            (TrainerEvents.METRICS_LOGGED, self._on_logged),
            (Events.EPOCH_COMPLETED, self.flush),
            (Events.TERMINATE, self.flush),
            (Events.COMPLETED, self.flush),
        ]

    def _on_started(self, trainer: Engine) -> None:
        pending = self._pending
        self._window, self._pending = [], None
        if pending is not None and pending.window[-1].iteration == trainer.state.iteration:
            self._check(pending)  # of the step before an error, after which this run goes on
        for event, handler in self._handlers():
            if event != Events.STARTED:
                move_to_front(trainer, event, handler)

    def _on_epoch_started(self) -> None:
        # What an epoch that was cut short left of an accumulation window goes into no step.
        self._window = []

    def _on_iteration_completed(self, trainer: Engine) -> None:
        state: Any = trainer.state
        output = state.output
        if not isinstance(output, dict):
            output = _as_mapping(output)
        value = output.get("grad_norm")
        is_norm = value is not None
        if not is_norm:
            value = output.get("loss")
        if len(output) != self._width or (self._no_numbers and _has_numbers(output, self._no_numbers)):
            self._width, self._no_numbers = len(output), _no_numbers(output)
        if self._no_numbers:
            # Predictions, say: their memory is wanted before the output has been looked at.
            output = _without(output, self._no_numbers)
        self._window.append(_Record(state.iteration, output, _image_ids_as_they_are(state.batch)))
        # Between two optimizer steps the norm is an old one.
        if is_norm and not getattr(state, "at_step_boundary", True):
            return
        before, self._pending = self._pending, self._start(value, is_norm)
        if before is not None:
            self._check(before)

    def _on_logged(self, trainer: Engine) -> None:
        state: Any = trainer.state
        terms: dict[str, float] = state.logged["metrics"]
        # Equal on all processes. With a loss scale a step that overflowed was skipped.
        if math.isfinite(terms.get("loss", 0.0)) or "loss_scale" in terms:
            return
        self.flush()  # knows more, if the gradient is not finite either
        told = ", ".join(f"{name} {value:.6g}" for name, value in terms.items())
        raise NonFiniteError(
            f"iteration {state.iteration}: the mean of the loss since the log's line before is {terms['loss']}, its "
            f"gradient is finite: {told}; look at the term that is not finite (a mean over nothing, say)"
        )

    def _start(self, value: Any, is_norm: bool) -> _Pending | None:
        window, self._window = self._window, []
        summed = not is_norm and idist.get_world_size() > 1
        if not isinstance(value, Tensor):
            if not isinstance(value, Real):
                return None
            if not summed:
                return _Pending(window, is_norm, functools.partial(float, value))
            device = idist.device()
            value = torch.tensor(float(value), dtype=_wire_dtype(device), device=device)
        if value.numel() != 1:
            return None
        if value.requires_grad:
            value = value.detach()
        if summed:
            # Of one type on all processes, whatever each has: a number here, a tensor there.
            value = value.reshape(()).to(_wire_dtype(value.device), copy=True)
            torch.distributed.all_reduce(value)
        if _is_on_host(value):
            # Read at once, since its owner may change it, and with less work than a copy of it.
            return _Pending(window, is_norm, functools.partial(float, value.numpy().item()))
        mailbox = self._mailbox
        if mailbox is None or not mailbox.takes(value):
            mailbox = self._mailbox = _Mailbox(value)
        return _Pending(window, is_norm, mailbox.send(value))

    def _check(self, pending: _Pending) -> None:
        value = pending.read()
        if math.isfinite(value):
            self._overflows = 0
        else:
            self._judge(pending, value)

    def _judge(self, pending: _Pending, value: float) -> None:
        told = [json.loads(text) for text in all_gather_strings(json.dumps(pending.describe()))]
        scaled = all("loss_scale" in record.output for record in pending.window)
        if pending.is_norm and scaled and all(part["finite"] for part in told):
            self._overflows += 1
            if self._overflows <= self._max_overflows:
                return
        self._pending = None
        raise NonFiniteError(_message(pending, value, told))


class _Record(NamedTuple):
    """What is kept of an iteration until its window has been looked at; holds no images."""

    iteration: int
    output: Mapping[str, Any]
    image_ids: Sequence[Any] | None

    def terms(self) -> dict[str, float]:
        known = {k: v for k, v in self.output.items() if k not in ("batch_size", "grad_norm", "loss_scale")}
        return {k: float(v) for k, v in known.items() if _is_number(v)}


class _Pending(NamedTuple):
    """A number on its way to the host, and the iterations that went into it."""

    window: list[_Record]
    is_norm: bool
    read: Callable[[], float]

    def describe(self) -> dict[str, Any]:
        """What this process says of its part; only now are the loss terms read."""
        parts, finite = [], True
        for record in self.window:
            terms = record.terms()
            finite = finite and all(math.isfinite(value) for value in terms.values())
            text = ", ".join(f"{name} {value:.6g}" for name, value in terms.items())
            if record.image_ids is not None:
                text += f", image ids {[_id_on_host(image_id) for image_id in record.image_ids]}"
            parts.append(f"iteration {record.iteration}: {text}" if len(self.window) > 1 else text)
        return {"finite": finite, "text": "; ".join(parts)}


class _Mailbox:
    """Two places in host memory that numbers like ``value`` are copied to in turn, without waiting."""

    def __init__(self, value: Tensor):
        self._device, self._dtype = device, dtype = value.device, value.dtype
        buffer = torch.zeros(2, dtype=_host_dtype(dtype), pin_memory=device.type == "cuda")
        self._places = buffer.unbind()
        # The same memory, read without an operation of torch.
        numbers = memoryview(buffer.numpy())  # type: ignore[arg-type]
        readers = [functools.partial(numbers.__getitem__, place) for place in range(2)]
        self._events: list[Any] = [torch.cuda.Event() if device.type == "cuda" else None for _ in range(2)]
        self._readers: list[Callable[[], float]] = [
            reader if event is None else functools.partial(_read_after, event, reader)
            for reader, event in zip(readers, self._events, strict=True)
        ]
        self._next = 0

    def takes(self, value: Tensor) -> bool:
        """Whether ``value`` is of the same device and dtype."""
        return value.dtype == self._dtype and value.device == self._device

    def send(self, value: Tensor) -> Callable[[], float]:
        """Start the copy of ``value``; what is returned waits for it and reads it, until the next but one is sent."""
        place, self._next = self._next, 1 - self._next
        self._places[place].copy_(value if value.ndim == 0 else value.reshape(()), non_blocking=True)
        event = self._events[place]
        if event is not None:
            event.record(torch.cuda.current_stream(self._device))
        return self._readers[place]


def _read_after(event: Any, read: Callable[[], float]) -> float:
    event.synchronize()
    return read()


def _as_mapping(output: Any) -> Mapping[str, Any]:
    if isinstance(output, Mapping):
        return output
    return {"loss": output} if isinstance(output, Real | Tensor) else {}


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)


def _is_on_host(value: Tensor) -> bool:
    """Whether NumPy can read ``value`` where it is."""
    return value.is_cpu and value.dtype in _NUMPY_DTYPES and not value.is_neg()


def _host_dtype(dtype: torch.dtype) -> torch.dtype:
    # What is finite in float64 need not be in float32.
    return torch.float64 if dtype == torch.float64 else torch.float32


def _wire_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # which MPS has not


def _has_numbers(output: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether one of ``names`` is a number in ``output``, or is not there."""
    return any(name not in output or _is_number(output[name]) for name in names)


def _without(output: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """``output`` without ``names``; terms that nobody has read stay unread."""
    kept: dict[str, Any] = {}
    if isinstance(output, StepTerms) and output.vector is not None and output.terms:
        kept = StepTerms.of(output.terms, output.vector)
    for name in output:
        if name not in kept and name not in names:
            kept[name] = output[name]
    return kept


def _no_numbers(output: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what is no number in a step's output, without reading terms that nobody has read."""
    unread = {"loss", *output.terms} if isinstance(output, StepTerms) and output.terms else set()
    return tuple(name for name in output if name not in unread and not _is_number(output[name]))


def _id_on_host(image_id: Any) -> int | str:
    if _is_number(image_id):
        with contextlib.suppress(ValueError, OverflowError):  # nan, infinity
            if (whole := int(image_id)) == image_id:
                return whole
    return one_line(str(image_id))


def _image_ids_as_they_are(batch: Any) -> list[Any] | None:
    # Not int(image_id): that would wait for the device where it is a tensor.
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], tuple | list):
        try:
            return [target["image_id"] for target in batch[1]]
        except (TypeError, KeyError, IndexError):
            return None
    return None


def _message(pending: _Pending, value: float, told: list[dict[str, Any]]) -> str:
    iterations = [record.iteration for record in pending.window]
    when = f"iteration {iterations[-1]}" if len(iterations) == 1 else f"iterations {iterations[0]} to {iterations[-1]}"
    at_fault = [rank for rank, part in enumerate(told) if not part["finite"]] or list(range(len(told)))
    what = "gradient norm" if pending.is_norm else "loss"
    whose = "; ".join(f"rank {rank}: {told[rank]['text']}" for rank in at_fault)
    return (
        f"{when}: the {what} is {value}; {whose}; no checkpoint holds this step: lower the learning rate, or look at "
        "these images"
    )
