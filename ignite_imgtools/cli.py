"""The console script ``ignite-imgtools``.

The parsers are generated (tyro) from dataclasses: a recipe's ``Config``, and the small ones below. A recipe is
imported only when it is named, so that ``list`` and ``--help`` answer at once.

Exit status: 0 done; 2 bad arguments or data, with one line on standard error; 128+N ended by signal N; 1 anything
else.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import inspect
import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from ignite_imgtools import __version__
from ignite_imgtools.progress import show_progress
from ignite_imgtools.recipes import RECIPES, load_recipe

__all__ = ["main"]

_PROG = "ignite-imgtools"
# What is wrong with a path that was given, and not with the machine.
_MENDABLE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
_SHELLS = ("bash", "zsh", "fish")
_NARROWEST = 20

_COMMANDS = {
    "list": "list the recipes",
    "train": "train a recipe: train RECIPE [OPTIONS]",
    "evaluate": "evaluate a checkpoint: evaluate RECIPE --checkpoint PATH [OPTIONS]",
    "predict": "draw and write predictions: predict RECIPE --checkpoint PATH IMAGE... [OPTIONS]",
    "find-lr": "suggest a learning rate: find-lr RECIPE [OPTIONS]",
    "import": "take over a checkpoint of another program: import RECIPE FILE --data DIR [OPTIONS]",
    "export": "write a model for other programs: export RECIPE --checkpoint PATH --to FORMAT OUT",
    "report": "write the report of a run: report RUN",
    "compare": "curves and numbers of several runs: compare RUN RUN...",
    "check": "find what is wrong with a data set: check FORMAT --data DIR",
    "make-data": "write the built-in data set: make-data FORMAT DIR [OPTIONS]",
    "convert": "write a detection data set in another format: convert DIR NEW_DIR --to FORMAT [OPTIONS]",
    "coco-eval": "evaluate COCO results: coco-eval --ground-truth FILE --results FILE [OPTIONS]",
    "completion": "print the script for tab completion: completion bash|zsh|fish",
}

_HELP = (
    f"""usage: {_PROG} COMMAND ...

Train, evaluate and use image models with PyTorch-Ignite.

commands:
"""
    + "\n".join(f"  {name:<11}{what}" for name, what in _COMMANDS.items())
    + f"""

options:
  -h, --help   show this help; COMMAND --help shows that of a command
  --version    show the version
  --debug      with any command: show where an error came from

Tab completion: source <({_PROG} completion bash)
"""
)


class _UsageError(Exception):
    """Bad arguments: one line."""


@dataclasses.dataclass(frozen=True)
class _Predict:
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files, folders of images, patterns such as 'a/*.jpg', or films."""
    checkpoint: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Checkpoint file."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("predictions")
    """Folder for the pictures and predictions.json."""
    device: str = "auto"
    """cpu, cuda, or auto, which is cuda where there is one."""
    frames_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Of a film look at every Nth frame. By default at one a second."""


@dataclasses.dataclass(frozen=True)
class _PredictWithScores(_Predict):
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Leave out predictions of a lower score."""


@dataclasses.dataclass(frozen=True)
class _PredictWithBoxes(_Predict):
    boxes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to look: a csv of image names with x1, y1, x2, y2, the predictions.json of a detector, or COCO results for
    images named by their ids. By default the whole image."""


@dataclasses.dataclass(frozen=True)
class _PredictInSureBoxes(_PredictWithBoxes):
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Leave out boxes of a lower score."""


@dataclasses.dataclass(frozen=True)
class _Check:
    format: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FORMAT")]
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the data set."""
    decode: bool = False
    """Decode every image too: that finds damage in the middle of files."""


@dataclasses.dataclass(frozen=True)
class _MakeData:
    format: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FORMAT")]
    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    num_train: Annotated[int, tyro.conf.arg(metavar="N")] = 400
    """Training images."""
    num_val: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """Validation images."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """The same seed writes the same files."""
    image_size: Annotated[int, tyro.conf.arg(metavar="N")] = 160
    """Longer side of the largest images, in pixels."""


@dataclasses.dataclass(frozen=True)
class _Convert:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NEW_DIR")]
    to: Literal["coco", "voc", "yolo"]
    """Format to write."""
    data_format: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    """Format to read: coco, voc or yolo. By default found from the folder's layout."""
    crowd: Literal["drop", "keep"] = "drop"
    """Crowds and difficult objects, which yolo cannot mark: leave them out, or make them objects like others."""
    decimals: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """Digits of the numbers in yolo's label files."""
    link_images: bool = False
    """Make hard links to the images instead of copies, where the file system can."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """What to do with an image or annotation that cannot be used: stop, or leave it out."""


@dataclasses.dataclass(frozen=True)
class _CocoEval:
    ground_truth: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """COCO json of images, annotations and categories."""
    results: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """COCO json of results."""
    iou_type: Literal["bbox", "segm", "keypoints"] = "bbox"
    """What is compared: boxes, masks or keypoints."""
    images: Literal["all", "seen"] = "all"
    """Evaluate all images, as pycocotools does, or those that have results."""
    max_dets: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N...")] = None
    """Detections for each image and category. [1 10 100, for keypoints 20]"""
    per_class: bool = False
    """Print the numbers of each class too."""
    plots: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write curves, confusion, errors and the numbers of each class into this folder."""
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Leave detections of a lower score out of the confusion matrix."""


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
    except _UsageError as error:
        if debug:
            _show_trace(error)
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); leave nothing for the interpreter to flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            _show_trace(error)
        return _report(error, traced=debug)
    finally:
        show_progress(False)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"{_PROG} {__version__}")
        return 0
    command, rest = args[0], args[1:]
    if command not in _COMMANDS:
        raise _UsageError(f"there is no command {command!r}; choose one of: {', '.join(_COMMANDS)}")
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "train": _train,
        "evaluate": _evaluate,
        "predict": _predict,
        "find-lr": _find_lr,
        "import": _import,
        "export": _export,
        "report": partial(_run_command, "report"),
        "compare": partial(_run_command, "compare"),
        "check": _check,
        "make-data": _make_data,
        "convert": _convert,
        "coco-eval": _coco_eval,
        "completion": _completion,
    }
    return commands[command](rest)


def _list(args: list[str]) -> int:
    _parse(dataclasses.make_dataclass("List", []), args, "list", "List the recipes.")
    for name, what in RECIPES.items():
        print(f"{name:<16}{what}")
    return 0


def _recipe_name(command: str, args: list[str]) -> str:
    if not args or args[0] in ("-h", "--help"):
        lines = [f"usage: {_PROG} {_COMMANDS[command].split(': ', 1)[1]}", "", "recipes:"]
        lines += [f"  {name:<16}{what}" for name, what in RECIPES.items()]
        print("\n".join([*lines, "", f"`{_PROG} {command} RECIPE --help` shows the options of a recipe."]))
        raise SystemExit(0 if args else 2)
    if args[0] not in RECIPES:
        raise _UsageError(f"there is no recipe {args[0]!r}; choose one of: {', '.join(RECIPES)}")
    return args[0]


def _train(args: list[str]) -> int:
    name = _recipe_name("train", args)
    recipe = load_recipe(name)
    config = _parse(recipe.Config, args[1:], f"train {name}", recipe.Config.__doc__)
    recipe.train(config)
    return 0


def _checkpoint_argument(args: list[str], command: str) -> Path:
    for position, arg in enumerate(args):
        if arg == "--checkpoint" and position + 1 < len(args):
            return Path(args[position + 1])
        if arg.startswith("--checkpoint="):
            return Path(arg.partition("=")[2])
    raise _UsageError(f"{command} needs --checkpoint PATH, the file of a run such as runs/NAME/checkpoints/best.pt")


def _evaluate(args: list[str]) -> int:
    from ignite_imgtools.recipes.records import RecipeRecord

    name = _recipe_name("evaluate", args)
    recipe = load_recipe(name)
    known = recipe.Config()
    if "-h" not in args and "--help" not in args:
        # What the run was trained with is the default of every option, so that --checkpoint alone evaluates it again.
        checkpoint = _checkpoint_argument(args, "evaluate")
        known = RecipeRecord.from_checkpoint(checkpoint, name, recipe.Config).config
    kind = _evaluate_arguments(recipe.Config, known)
    parsed = _parse(
        kind, args[1:], f"evaluate {name}", "Evaluate a checkpoint; options not given are those of its run."
    )
    config = parsed.config
    if parsed.plots is not None:
        # The built-in data stay where the run has them.
        data = config.data or next((path for path in [config.output_dir / "data"] if path.is_dir()), None)
        config = dataclasses.replace(config, output_dir=parsed.plots, data=data)
    recipe.evaluate(config, parsed.checkpoint)
    if os.environ.get("RANK", "0") == "0":  # of processes that torchrun has started
        print(f"numbers: {config.output_dir / 'eval'}; pictures: {config.output_dir / 'plots'}")
    return 0


def _evaluate_arguments(config_kind: type, default: Any) -> type:
    checkpoint = Annotated[Path, tyro.conf.arg(metavar="PATH", help="Checkpoint file.")]
    help_plots = "Write eval/ and plots/ into this folder. By default into that of the run."
    plots = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help=help_plots)]
    fields: list[Any] = [
        ("checkpoint", checkpoint),
        ("plots", plots, dataclasses.field(default=None)),
        ("config", config_kind, dataclasses.field(default=default)),
    ]
    return dataclasses.make_dataclass("Evaluate", fields)


def _predict(args: list[str]) -> int:
    from ignite_imgtools.commands.inputs import find_inputs

    name = _recipe_name("predict", args)
    recipe = load_recipe(name)
    kind = _predict_arguments(recipe)
    parsed = _parse(kind, args[1:], f"predict {name}", "Draw predictions on images, and write them as json.")
    options = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    every = options.pop("frames_every")
    images = find_inputs(options.pop("images"), options["output_dir"] / "frames", every)
    recipe.predict(options.pop("checkpoint"), images, **options)
    return 0


def _find_lr(args: list[str]) -> int:
    from ignite_imgtools.commands import find_lr

    name = _recipe_name("find-lr", args)
    recipe = load_recipe(name)
    parsed = _parse(find_lr.arguments(recipe.Config), args[1:], f"find-lr {name}", find_lr.DESCRIPTION)
    find_lr.run(recipe, name, parsed)
    return 0


def _import(args: list[str]) -> int:
    from ignite_imgtools.commands import import_weights

    name = _recipe_name("import", args)
    recipe = load_recipe(name)
    kind = import_weights.arguments(recipe.Config)
    print(import_weights.run(recipe, name, _parse(kind, args[1:], f"import {name}", import_weights.DESCRIPTION)))
    return 0


def _export(args: list[str]) -> int:
    from ignite_imgtools.commands import export

    name = _recipe_name("export", args)
    parsed = _parse(export.Arguments, args[1:], f"export {name}", export.DESCRIPTION)
    print(export.run(load_recipe(name), parsed))
    return 0


def _run_command(command: str, args: list[str]) -> int:
    """A command that is a module of its own."""
    module = import_module(f"ignite_imgtools.commands.{command}")
    print(module.run(_parse(module.Arguments, args, command, module.DESCRIPTION)))
    return 0


def _predict_arguments(recipe: Any) -> type:
    parameters = inspect.signature(recipe.predict).parameters
    # A mask has a class for every pixel, and no score that something could be below.
    if "boxes" in parameters:
        return _PredictInSureBoxes if "score_threshold" in parameters else _PredictWithBoxes
    return _PredictWithScores if "score_threshold" in parameters else _Predict


def _check(args: list[str]) -> int:
    from ignite_imgtools.data import check

    formats = ", ".join(check.FORMATS)
    parsed = _parse(
        _Check,
        args,
        "check",
        f"Find what is wrong with a data set, decoding masks of classes, and images with --decode. FORMAT: {formats}.",
    )
    if parsed.format not in check.FORMATS:
        raise _UsageError(f"there is no format {parsed.format!r}; choose one of: {formats}")
    if not parsed.data.is_dir():
        raise _UsageError(f"--data must be a folder; there is no folder {parsed.data}")
    faults = check.check_dataset(parsed.format, parsed.data, decode=parsed.decode)
    print(check.format_report(faults))
    if parsed.format == "yolo" and not faults:
        print(check.anchor_report(parsed.format, parsed.data))
    return 2 if faults else 0


def _make_data(args: list[str]) -> int:
    from ignite_imgtools.data.make_data import FORMATS, make_data

    formats = ", ".join(FORMATS)
    parsed = _parse(
        _MakeData, args, "make-data", f"Write the built-in data set: shapes with exact annotations. FORMAT: {formats}."
    )
    if parsed.format not in FORMATS:
        raise _UsageError(f"there is no format {parsed.format!r}; choose one of: {formats}")
    try:
        make_data(
            parsed.format,
            parsed.directory,
            num_train=parsed.num_train,
            num_val=parsed.num_val,
            seed=parsed.seed,
            image_size=parsed.image_size,
        )
    except (ValueError, OSError) as error:
        raise _UsageError(str(error)) from None
    print(f"{parsed.num_train} training and {parsed.num_val} validation images written to {parsed.directory}")
    return 0


def _convert(args: list[str]) -> int:
    from ignite_imgtools.data import convert_detection_data

    parsed = _parse(_Convert, args, "convert", "Write the boxes and images of a detection data set in another format.")
    try:
        converted = convert_detection_data(
            parsed.folder,
            parsed.directory,
            parsed.to,
            data_format=parsed.data_format,
            crowd=parsed.crowd,
            decimals=parsed.decimals,
            link_images=parsed.link_images,
            on_bad_sample=parsed.on_bad_sample,
        )
    except (ValueError, OSError) as error:
        raise _UsageError(str(error)) from None
    print(f"{converted} written to {parsed.directory}")
    return 0


def _coco_eval(args: list[str]) -> int:
    from ignite_imgtools.handlers.evaluation_report import class_table, write_evaluation_report
    from ignite_imgtools.metrics.coco.files import evaluate_files
    from ignite_imgtools.metrics.coco_analysis import table_to_text

    parsed = _parse(_CocoEval, args, "coco-eval", "Evaluate COCO results, and print the numbers as pycocotools does.")
    if parsed.max_dets is not None and not all(number > 0 for number in parsed.max_dets or (0,)):
        raise _UsageError(f"--max-dets must be positive integers, got {' '.join(map(str, parsed.max_dets)) or 'none'}")
    evaluation = evaluate_files(
        parsed.ground_truth, parsed.results, parsed.iou_type, images=parsed.images, max_detections=parsed.max_dets
    )
    unknown = evaluation.unknown_labels()
    if len(unknown):
        print(
            f"{_PROG}: {len(unknown)} of {len(evaluation.detections.labels)} results take no part: the ground truth "
            f"does not list their category_id, such as {unknown[0]}",
            file=sys.stderr,
        )
    print(evaluation.text())
    if parsed.per_class:
        print(f"\n{table_to_text(class_table(evaluation))}")
    if parsed.plots is not None:
        try:
            write_evaluation_report(parsed.plots, evaluation, parsed.score_threshold)
        except OSError as error:
            raise _UsageError(f"--plots: {error}") from None
    return 0


def _completion(args: list[str]) -> int:
    import shtab

    if len(args) != 1 or args[0] not in _SHELLS:
        raise _UsageError(f"completion takes the name of a shell: {', '.join(_SHELLS)}")
    print(shtab.complete(_completion_parser(), shell=args[0]))
    return 0


def _completion_parser() -> argparse.ArgumentParser:
    # tyro's own completion knows one command at a time; shtab needs no more than the names of all the options.
    import shtab

    from ignite_imgtools.commands import export, find_lr, import_weights
    from ignite_imgtools.data import check
    from ignite_imgtools.data.make_data import FORMATS

    parser = argparse.ArgumentParser(_PROG)
    commands = parser.add_subparsers()
    parsers = {name: commands.add_parser(name, help=what.split(":")[0]) for name, what in _COMMANDS.items()}
    for command in ("train", "evaluate", "predict", "find-lr", "import", "export"):
        recipes = parsers[command].add_subparsers()
        for name, what in RECIPES.items():
            options = recipes.add_parser(name, help=what)
            if command == "predict":
                _add_options(options, _predict_arguments(load_recipe(name)))
                continue
            if command == "export":
                _add_options(options, export.Arguments)
                continue
            _add_options(options, load_recipe(name).Config)
            if command == "find-lr":
                _add_options(options, find_lr.Search)
            if command == "import":
                options.add_argument("file").complete = shtab.FILE  # type: ignore[attr-defined]
                _add_options(options, import_weights.Source)
            if command == "evaluate":
                options.add_argument("--checkpoint").complete = shtab.FILE  # type: ignore[attr-defined]
                options.add_argument("--plots").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parsers["check"].add_argument("format", choices=list(check.FORMATS))
    parsers["check"].add_argument("--data").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parsers["check"].add_argument("--decode")
    parsers["make-data"].add_argument("format", choices=list(FORMATS))
    parsers["make-data"].add_argument("directory").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    for name in ("folder", "directory"):
        parsers["convert"].add_argument(name).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    _add_options(parsers["convert"], _Convert)
    _add_options(parsers["coco-eval"], _CocoEval)
    for name in ("report", "compare"):
        parsers[name].add_argument("runs", nargs="*").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parsers["compare"].add_argument("--figure").complete = shtab.FILE  # type: ignore[attr-defined]
    parsers["completion"].add_argument("shell", choices=_SHELLS)
    return parser


def _add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    import shtab

    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        choices = [value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)]
        if field.name == "images" and not choices:
            parser.add_argument("images", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
            continue
        if "Positional" in str(field.type):
            continue
        option = parser.add_argument(f"--{field.name.replace('_', '-')}", choices=choices or None)
        if Path in (hint, *get_args(hint)):
            option.complete = shtab.FILE  # type: ignore[attr-defined]


def _parse(kind: type, args: Sequence[str], command: str, description: str | None) -> Any:
    """Parse ``args`` into ``kind``; what is wrong with them becomes one line."""
    stderr = io.StringIO()
    # A terminal is what tyro has colours for; what is no terminal gets none.
    plain = io.StringIO() if os.environ.get("NO_COLOR") else None
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(plain or sys.stdout):
            return tyro.cli(
                kind,
                args=list(args),
                prog=f"{_PROG} {command}",
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if plain is not None:
            print(plain.getvalue(), end="")
        if stop.code in (0, None):
            raise
        raise _UsageError(f"{_first_message(stderr.getvalue())} (see {_PROG} {command} --help)") from None


def _first_message(box: str) -> str:
    # tyro frames its errors where the terminal can, with the title in the frame; elsewhere the title has a section of
    # its own. Rules part the sections.
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │|")
        if re.fullmatch(r"[─-]{5,}", text):
            sections.append([])
        elif not re.match(r"[╭╰]", text):
            sections[-1].append(text)
    framed = "╭" in box
    texts = [" ".join(" ".join(section).split()) for section in (sections if framed else sections[1:])]
    hint = next((re.search(r"--[\w-]+", text) for text in texts if text.startswith("Perhaps you meant")), None)
    return (texts[0] if texts else "bad arguments") + (f"; perhaps you meant {hint.group()}" if hint else "")


def _fail(message: str, status: int = 2) -> int:
    # A name of a file may be in it, and that may hold what terminals obey.
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(message.split()))
    print(f"{_PROG}: {line}", file=sys.stderr)
    return status


def _show_trace(error: Exception) -> None:
    # What a line for people leaves out: the error that it was made of.
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)


def _report(error: Exception, *, traced: bool = False) -> int:
    """Say what went wrong: one line for what a user can mend, the traceback for everything else."""
    name, message = type(error).__name__, str(error)
    failure: Any = error if name == "ProcessFailure" else None  # its class is not imported for the sake of others
    if failure is not None:
        name, message = failure.kind, failure.reason
    if name in ("DataError", "ConfigError", "CheckpointError", "RunFolderError"):
        return _fail(message)
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
