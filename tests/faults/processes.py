"""Let one of two processes fail in every way, under every launcher, and see how all of them end.

All processes are to be gone within ten seconds of the fault (where a process or a loader worker is stuck, within the
limit and two seconds), with a status other than 0, and the first error, in one line that names the rank, is to be told
last: by what the launcher prints last, or, since torchrun prints a table of its own, in that table.

    python -m tests.faults.processes      # the long form
    python -m tests.faults.processes --launchers launch --faults raise kill stuck

prints a line for each: seconds from the fault until the last process had gone, status, whether all is as promised, and
what was told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.faults.failing_script import STUCK_AFTER

__all__ = ["FAULTS", "LAUNCHERS", "Outcome", "run_fault"]

_ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ("parallel", "launch", "torchrun")
_FIRST = "rank 1 failed first: "
# What must be told, and within how many seconds all must have gone.
FAULTS: dict[str, tuple[str, float]] = {
    "raise": (_FIRST + "ValueError: a fault of rank 1", 10),
    "swallowed": (_FIRST + "ValueError: a fault of rank 1 that a handler swallows", 10),
    "kill": (_FIRST + r".*killed|process 1 terminated with signal SIGKILL|rank *: 1 .*-9 .*Signal 9 \(SIGKILL\)", 10),
    "exit 0": (_FIRST + "RuntimeError: left with exit status 0 before the end of the run", 10),
    "nan": (r"NonFiniteError: iteration \d+: the gradient norm is nan; rank 1: loss nan", 10),
    "unequal": ("rank 1 has 9 batches in each of 2 epochs, rank 0 has 10", 10),
    "stuck": (_FIRST + r"no progress for 8 s \(stuck_after\): it is in .*failing_script.py", STUCK_AFTER + 2),
    "worker killed": (_FIRST + r"RuntimeError: loader worker 0 .* was killed by signal 9 .* loading sample \d+", 10),
    "worker stuck": (_FIRST + "RuntimeError: no batch came within timeout=8 seconds", STUCK_AFTER + 2),
    "launcher killed": ("", 10),
}


class Outcome(NamedTuple):
    """How it ended."""

    seconds: float
    status: int
    in_time: bool
    as_told: bool
    told: str
    output: str


def run_fault(launcher: str, fault: str, folder: Path) -> Outcome:
    """Start the training, wait until all of its processes have gone, and look at what they said."""
    script = str(Path(__file__).with_name("failing_script.py"))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*(start if launcher == "torchrun" else [sys.executable]), script, launcher, fault, str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    out, err = folder / "out", folder / "err"
    begin = 0.0
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, env=environment, cwd=folder, start_new_session=True
        )
    try:
        if fault == "launcher killed":
            _wait_for(out, "STEP")
            begin = time.time()
            process.kill()
        status = process.wait(180)
        ended = time.time()
        while _session(process.pid) and time.time() - ended < 30:
            time.sleep(0.05)
        end = time.time()
    finally:
        left = _session(process.pid)
        for other in (*left, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
    said = re.search(r"FAULT ([\d.]+)", out.read_text())
    seconds = end - (begin or (float(said[1]) if said else end))
    pattern, limit = FAULTS[fault]
    if (launcher, fault) == ("parallel", "stuck"):  # idist.Parallel adds what it has seen, the process and its status
        pattern = "process 1 terminated with exit code 1"
    # Python's tracker of shared memory, a process of its own, may complain after the last of ours has gone.
    noise = ("resource_tracker", "warnings.warn(")
    lines = [line for line in err.read_text().splitlines() if line.strip() and not any(n in line for n in noise)]
    # Before torchrun's table, and the status that idist.Parallel adds to what a process said before it ended.
    last = " ".join(lines[-40:]) if launcher == "torchrun" else "\n".join(lines[-2:])
    found = re.search(pattern, last, re.MULTILINE) if pattern else None
    in_time, as_told = not left and seconds <= limit, found is not None or not pattern
    return Outcome(seconds, status, in_time, as_told, found.group() if found else (lines or [""])[-1], "\n".join(lines))


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in path.read_text():
        assert time.monotonic() < deadline, path.with_name("err").read_text()
        time.sleep(0.02)


def _session(leader: int) -> list[int]:
    """Live processes of the session that ``leader`` began: what a launcher has left behind is in it still."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(path.name))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--verbose", action="store_true", help="print what the processes wrote to stderr")
    options = parser.parse_args()
    tried = right = 0
    for launcher in options.launchers:
        for fault in options.faults:
            with tempfile.TemporaryDirectory() as folder:
                outcome = run_fault(launcher, fault, Path(folder))
            good = outcome.status != 0 and outcome.in_time and outcome.as_told
            tried, right = tried + 1, right + good
            mark = "as promised" if good else "NOT AS PROMISED"
            print(
                f"{launcher:9} {fault:16} {outcome.seconds:5.1f} s  status {outcome.status:4}  {mark}: {outcome.told}",
                flush=True,
            )
            if options.verbose:
                print(outcome.output, flush=True)
    print(f"{right} of {tried} as promised")
    return int(right != tried)


if __name__ == "__main__":
    raise SystemExit(main())
