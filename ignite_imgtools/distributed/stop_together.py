"""Stop all processes after the same step."""

from __future__ import annotations

import ignite.distributed as idist
import torch

from ignite_imgtools.distributed.attempts import new_token

__all__ = ["StopTogether"]


class StopTogether:
    """Lets any process ask for a stop, and all of them stop after the same step.

    No collective is spent: a request is a note in the process group's key-value store. Who finds it first writes
    down the number of the step after the next. No process can pass that step unawares: gradients are reduced in
    each step, so nobody ends step ``n + 1`` before all have begun it, that is, have looked for a note after step
    ``n``; on a GPU, where the host runs ahead of the reduction, each look waits until the device has done the step
    before.

    Make it on all processes, and call :meth:`should_stop` on every one of them once for each optimizer step, counted
    alike on all.

    Args:
        name: of the loop that is to be stopped, for those who look into the store.
    """

    def __init__(self, name: str = "training"):
        self.reason = 0
        self._requested = 0
        self._agreed: tuple[int, int] | None = None
        self._round = 0
        self._store = None
        self._device_done: torch.cuda.Event | None = None
        if idist.get_world_size() > 1:
            store = torch.distributed.distributed_c10d._get_default_store()
            self._store = torch.distributed.distributed_c10d.PrefixStore(
                f"ignite_imgtools/stop/{name}/{new_token()}", store
            )

    def request(self, reason: int = 1) -> None:
        """Ask for a stop; safe in a signal handler.

        Args:
            reason: above 0; all processes find it in ``reason`` when they stop.
        """
        self._requested = reason

    def should_stop(self, step: int) -> bool:
        """Whether to stop now that ``step`` is finished; the same answer for the same step on every process."""
        if self._store is None:
            self.reason = self._requested
            return self.reason != 0
        self._wait_for_step_before()
        note = f"note/{self._round}"
        if self._agreed is None:
            if self._requested:
                # Some stores put an empty expected value for "no value yet"; the first to write wins.
                told = self._store.compare_set(note, "", f"{step + 2} {self._requested}")
                self._agreed = _read_note(told)
            elif self._store.check([note]):
                self._agreed = _read_note(self._store.get(note))
        if self._agreed is None or step < self._agreed[0]:
            return False
        self.reason = self._agreed[1]
        return True

    def reset(self) -> None:
        """Go on after a stop; a request of another reason that was made meanwhile stays."""
        if self._requested == self.reason:
            self._requested = 0
        self.reason, self._agreed = 0, None
        self._round += 1

    def announce(self) -> None:
        """Let :meth:`announced` be true on all processes soon, for loops without a common step."""
        if self._store is not None:
            self._store.set("announced", "1")

    def announced(self) -> bool:
        """Whether a process has announced a stop; not at the same moment on all of them."""
        return self._store is not None and self._store.check(["announced"])

    def _wait_for_step_before(self) -> None:
        if idist.backend() != "nccl":
            return
        before, self._device_done = self._device_done, torch.cuda.Event()
        self._device_done.record()
        if before is not None:
            before.synchronize()


def _read_note(note: bytes | str) -> tuple[int, int]:
    step, reason = (note.decode() if isinstance(note, bytes) else note).split()
    return int(step), int(reason)
