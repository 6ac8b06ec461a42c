"""One start of the processes among several, where a launcher keeps its key-value store from one to the next.

``torchrun --max-restarts`` does: what the processes of the last start have left there (addresses to connect to, notes
on who has failed) would be taken for that of the present ones. So each start has a part of the store of its own.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch

from ignite_imgtools.distributed.gather import all_gather_strings

__all__ = ["init_method", "new_token", "own_part"]

_SCHEME = "ignite-imgtools"
_INTERVAL = 0.02
_DEFAULT_TIMEOUT = timedelta(minutes=30)


def new_token() -> str:
    """A text that has not been used before, the same on all processes; a collective."""
    return all_gather_strings(uuid.uuid4().hex)[0]


def init_method() -> str | None:
    """How processes that a launcher has started find each other; ``None`` for torch's own way."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return None
    _register()
    return f"{_SCHEME}://"


@functools.cache
def _register() -> None:
    from torch.distributed.rendezvous import register_rendezvous_handler  # not in every build of torch

    register_rendezvous_handler(_SCHEME, _rendezvous)


def _rendezvous(url: str, timeout: timedelta = _DEFAULT_TIMEOUT, **options: Any) -> Iterator[tuple[Any, int, int]]:
    from torch.distributed.rendezvous import rendezvous

    store, rank, world_size = next(iter(rendezvous("env://", timeout=timeout)))
    yield own_part(store, rank, world_size, timeout), rank, world_size
    raise RuntimeError("processes find each other once")


def own_part(store: Any, rank: int, world_size: int, timeout: timedelta = _DEFAULT_TIMEOUT) -> Any:
    """A part of ``store`` that is of these processes alone; call it on all of them.

    How often the launcher has started its processes does not name it: with several machines each counts the failures
    of its own. The main process draws a name. Each other one asks for it with a number that nobody has used, so that
    neither takes what is left of an earlier question or answer for a new one.

    Raises:
        RuntimeError: a process has not come within ``timeout``.
    """
    own = torch.distributed.distributed_c10d.PrefixStore("ignite_imgtools/start", store)
    deadline = time.monotonic() + timeout.total_seconds()
    name = _tell_name(own, world_size, deadline) if rank == 0 else _ask_for_name(own, rank, deadline)
    return torch.distributed.distributed_c10d.PrefixStore(name, store)


def _tell_name(store: Any, world_size: int, deadline: float) -> str:
    name = uuid.uuid4().hex
    waiting = set(range(1, world_size))
    answered: dict[int, str] = {}
    while waiting:
        for rank in sorted(waiting):
            question = _read(store, f"question/{rank}")
            if question and answered.get(rank) != question:
                store.set(f"answer/{rank}", f"{question} {name}")
                answered[rank] = question
            if _read(store, f"taken/{rank}") == name:
                waiting.remove(rank)
        _wait(deadline, f"ranks {', '.join(map(str, sorted(waiting)))} to start")
    return name


def _ask_for_name(store: Any, rank: int, deadline: float) -> str:
    question = uuid.uuid4().hex
    store.set(f"question/{rank}", question)
    while True:
        answered, _, name = _read(store, f"answer/{rank}").partition(" ")
        if answered == question:
            store.set(f"taken/{rank}", name)
            return name
        _wait(deadline, "rank 0 to start")


def _read(store: Any, key: str) -> str:
    return str(store.get(key).decode()) if store.check([key]) else ""


def _wait(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(f"waited in vain for {what}")
    time.sleep(_INTERVAL)
