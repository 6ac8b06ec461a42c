"""The console script ``ignite-imgtools``.

The parsers are generated (tyro) from dataclasses: a recipe's ``Config``, and the small ones below. A recipe is
imported only when it is named, so that ``list`` and ``--help`` answer at once.

Exit status: 0 done; 2 bad arguments or data, with one line on standard error; 128+N ended by signal N; 1 anything
else.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ignite_imgtools import __version__
from ignite_imgtools.commands import COMMANDS, load_command
from ignite_imgtools.commands.parsing import PROG, UsageError, check_known, in_words_of_command
from ignite_imgtools.process_end import leave_at_exit
from ignite_imgtools.progress import show_progress

__all__ = ["main", "run"]

# What is wrong with a path that was given, and not with the machine.
_MENDABLE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
_NARROWEST = 20

_HELP = (
    f"""usage: {PROG} COMMAND ...

Train, evaluate and use image models with PyTorch-Ignite.

commands:
"""
    + "\n".join(f"  {name:<11}{what}" for name, what in COMMANDS.items())
    + f"""

options:
  -h, --help   show this help; COMMAND --help shows that of a command
  --version    show the version
  --debug      with any command: show where an error came from

Tab completion: source <({PROG} completion bash)
"""
)


def run() -> NoReturn:
    """What the console script does: :func:`main`, and this process ends."""
    try:
        status = main()
    except SystemExit as error:
        if isinstance(error.code, int):
            leave_at_exit(error.code & 0xFF)
        raise
    leave_at_exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default that of the process) and return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    # Threads that spin while they wait steal the cores of a shared machine; torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Nor does its profiler have to say that it finds no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if shutil.get_terminal_size().columns < _NARROWEST:
        # A terminal without a size, as Python 3.10 shows it, or hardly any: tyro would wrap its help for ever.
        os.environ["COLUMNS"] = str(_NARROWEST)
    show_progress()
    try:
        return _dispatch(args)
    except UsageError as error:
        if debug:
            _show_trace(error)
        return _fail(in_words_of_command(str(error), args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); leave nothing for the interpreter to flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            _show_trace(error)
        return _report(error, args, traced=debug)
    finally:
        show_progress(False)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"{PROG} {__version__}")
        return 0
    command, rest = args[0], args[1:]
    check_known("command", command, COMMANDS)
    return load_command(command)(rest)


def _fail(message: str, status: int = 2) -> int:
    # A name of a file may be in it, and that may hold what terminals obey.
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(message.split()))
    print(f"{PROG}: {line}", file=sys.stderr)
    return status


def _show_trace(error: Exception) -> None:
    # What a line for people leaves out: the error that it was made of.
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)


def _report(error: Exception, args: Sequence[str], *, traced: bool = False) -> int:
    """Say what went wrong: one line for what a user can mend, the traceback for everything else."""
    name, message = type(error).__name__, str(error)
    failure: Any = error if name == "ProcessFailure" else None  # its class is not imported for the sake of others
    if failure is not None:
        name, message = failure.kind, failure.reason
    if name == "DataError":  # in it is what data sets hold, and that is nobody's argument
        return _fail(message)
    if name in ("ConfigError", "CheckpointError", "RunFolderError"):
        return _fail(in_words_of_command(message, args))
    if name == "NonFiniteError":
        return _fail(message, status=1)
    if failure is not None:
        print(failure.trace, file=sys.stderr)
        return _fail(str(error), status=1)
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror or error}", status=2 if error.errno in _MENDABLE else 1)
    if name == "OutOfMemoryError":
        return _fail(f"{message.split('. ')[0]}; give a smaller --batch-size or smaller images", status=1)
    if not traced:
        traceback.print_exception(error)
    return 1
