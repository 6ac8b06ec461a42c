"""Processes: launch them, seed them, end them together, gather arrays from them.

Every call works the same in a plain single process. Beyond ``ignite.distributed`` this is the only package that
knows of ranks.
"""

from ignite_imgtools.distributed.failures import STUCK_AFTER, ProcessFailure, failure_of, watch_processes
from ignite_imgtools.distributed.gather import (
    all_gather_arrays,
    all_gather_strings,
    is_main_process,
    on_main_process,
)
from ignite_imgtools.distributed.launcher import launch
from ignite_imgtools.distributed.parallel_model import broadcast_buffers, create_parallel_model, unwrap_model
from ignite_imgtools.distributed.seeds import keyed_seed, seed_all, seed_step
from ignite_imgtools.distributed.stop_together import StopTogether

__all__ = [
    "STUCK_AFTER",
    "ProcessFailure",
    "StopTogether",
    "all_gather_arrays",
    "all_gather_strings",
    "broadcast_buffers",
    "create_parallel_model",
    "failure_of",
    "is_main_process",
    "keyed_seed",
    "launch",
    "on_main_process",
    "seed_all",
    "seed_step",
    "unwrap_model",
    "watch_processes",
]
