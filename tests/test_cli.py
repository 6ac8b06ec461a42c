"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ignite_imgtools import __version__
from ignite_imgtools.cli import main
from ignite_imgtools.commands import COMMANDS
from ignite_imgtools.commands.told_defaults import with_told_defaults
from ignite_imgtools.recipes import RECIPES, load_recipe
from ignite_imgtools.recipes.config import ConfigError


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["train", "--help"], ["train", "faster_rcnn", "--help"]])
def test_help_goes_to_standard_output(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(args)
    except SystemExit as stop:
        status = stop.code or 0
    assert status == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: ignite-imgtools")
    assert err == ""


def test_help_of_a_recipe_explains_every_common_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "faster_rcnn", "--help"])
    out = capsys.readouterr().out
    for flag in (
        "--data --data-format --output-dir --epochs --max-iterations --batch-size --lr --num-workers --device "
        "--nproc-per-node --amp-dtype --accumulate --clip-norm --ema-decay --weights --resume --seed --log-every "
        "--group-by --on-bad-sample --val-fraction"
    ).split():
        assert f" {flag} " in out


def test_version_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ignite-imgtools {__version__}\n"
    assert main(["list"]) == 0
    assert capsys.readouterr().out.startswith("faster_rcnn ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fly"], "there is no command 'fly'; choose one of: list, train"),
        (["train", "slow_rcnn"], "there is no recipe 'slow_rcnn'; choose one of: faster_rcnn"),
        (["train", "faster_rcnn", "--epoch", "3"], "--epoch"),
        (["train", "faster_rcnn", "--epochs", "three"], "--epochs"),
        (["train", "faster_rcnn", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["train", "faster_rcnn", "--lr", "nan"], "--lr must be a positive number, got nan"),
        (["train", "faster_rcnn", "--data", "nowhere"], "--data must be a folder; there is no folder nowhere"),
        (["train", "faster_rcnn", "--weights", "no.pt"], "--weights must be none, default or a file"),
        (["train", "faster_rcnn", "--resume", "no.pt"], "--resume must be auto, never or a checkpoint"),
        (["train", "faster_rcnn", "--anchor-sizes", "8", "16"], "--anchor-sizes must be 5, 10 or 15 numbers, got 2"),
        (["train", "faster_rcnn", "--device", "tpu"], "--device must be auto, cpu or cuda, got 'tpu'"),
        (["train", "faster_rcnn", "--val-fraction", "1"], "--val-fraction must lie between 0 and 1"),
        (["train", "faster_rcnn", "--batch-size", "1", "--nproc-per-node", "2"], "less than one image for each"),
        (["evaluate", "faster_rcnn"], "evaluate needs --checkpoint PATH"),
        (["evaluate", "faster_rcnn", "--checkpoint", "no.pt"], "no.pt"),
        (["predict", "faster_rcnn", "a.jpg"], "checkpoint"),
        (["check", "coco2", "--data", "."], "there is no format 'coco2'; choose one of: coco, voc, "),
        (["check", "coco", "--data", "nowhere"], "there is no folder nowhere"),
        (["make-data", "coco2", "x"], "there is no format 'coco2'"),
        (["make-data", "coco", ".", "--num-train", "-1"], "num"),
        (["find-lr", "slow_rcnn"], "there is no recipe 'slow_rcnn'"),
        (["find-lr", "unet", "--iterations", "3"], "--iterations must be at least 10, got 3"),
        (["find-lr", "unet", "--start-lr", "2"], "--start-lr must be above 0 and below --end-lr, got 2.0 and 1.0"),
        (["export", "unet", "x.onnx", "--to", "onnx"], "checkpoint"),
        (["export", "unet", "x.onnx", "--to", "h5", "--checkpoint", "no.pt"], "--to"),
        (["export", "unet", "x.onnx", "--to", "onnx", "--checkpoint", "no.pt"], "no.pt"),
        (
            ["train", "faster_rcnn", "--min-size", "800", "--max-size", "32"],
            "--min-size must be at most --max-size, got ",
        ),
        (["train", "faster_rcnn", "--data", ".", "--min-size", "1400"], "at most --max-size, got 1400 and 1333"),
        (["predict", "unet", "--checkpoint", "no.pt"], "predict needs images: files, folders, patterns or films"),
        (["predict", "unet", "--checkpoint", "no.pt", "*.jpg"], "no file has a name of this pattern"),
        (["trian", "unet"], "; perhaps you meant train"),
        (["train", "faster_rcn"], "; perhaps you meant faster_rcnn"),
        (["check", "coc", "--data", "."], "; perhaps you meant coco"),
        (["make-data", "yolov", "x"], "; perhaps you meant yolo"),
        (["train", "unet", "--lr", "abc"], "--lr: expected a number, got 'abc' (see"),
        (["train", "unet", "--lr=abc"], "--lr: expected a number, got 'abc' (see"),
        (["train", "unet", "--val-fraction", "abc"], "--val-fraction: expected a number, got 'abc' (see"),
        (["train", "unet", "--epochs", "3.5"], "--epochs: expected a whole number, got '3.5' (see"),
        (["find-lr", "unet", "--iterations", "x"], "--iterations: expected a whole number, got 'x' (see"),
        (["train", "faster_rcnn", "--lr_steps", "3", "b"], "--lr-steps: expected whole numbers, got '3 b' (see"),
        (["train", "yolov3_spp", "--hsv", "a", "b", "c"], "--hsv: expected 3 numbers, got 'a b c' (see"),
        (["train", "faster_rcnn", "--optimizer", "lion"], "--optimizer: expected sgd or adamw, got 'lion' (see"),
        (
            ["export", "unet", "x", "--to", "onxx", "--checkpoint", "no.pt"],
            "--to: expected onnx, torchscript or export, got 'onxx'; perhaps you meant onnx (see",
        ),
        (["make-data", "coco", "x", "--image-size", "3"], "--image-size must be"),
        (["completion", "cmd"], "completion takes the name of a shell"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ignite-imgtools: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("min_size must be at least 1, got -5", "--min-size must be at least 1, got -5"),
        ("trainable_layers=3 would freeze: give 5", "--trainable-layers 3 would freeze: give 5"),
        ("runs/a: choose another output_dir, or resume=PATH", "runs/a: choose another --output-dir, or --resume PATH"),
        ("backbone must be one of a18, b50, got 'a81'", "--backbone must be one of a18, b50, got 'a81'"),
        ("backbone must be one of resnet18, vgg, got 'resnet81'", "; perhaps you meant resnet18"),
        ("lr=0.1: in use; choose another output_dir", "lr=0.1: in use; choose another --output-dir"),
        ("runs/lr=0.1/min_size: no such folder", "runs/lr=0.1/min_size: no such folder"),
        ("there is no folder my val_fraction", "there is no folder my val_fraction"),
        ("on_bad_sample='skip' in Python", "on_bad_sample='skip' in Python"),
        ("model resnet18 is no data of this seed", "model resnet18 is no data of this seed"),
    ],
)
def test_messages_name_flags_and_leave_what_a_user_has_named(
    message: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: object) -> None:
        raise ConfigError(message)

    monkeypatch.setattr(load_recipe("coco_detection"), "train", refuse)
    assert main(["train", "coco_detection", "--output-dir", "lr=0.1", "--data=my val_fraction"]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.startswith(f"ignite-imgtools: {told}") or told.startswith(";")


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_unknown_format_of_data_is_one_line(
    recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    known = "class_folders" if recipe == "classification" else ""
    assert main(["train", recipe, "--data", "data", "--data-format", known[:-1] or "cocoo", "--device", "cpu"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("ignite-imgtools: --data-format must be one of ")
    assert (f"; perhaps you meant {known}" if known else "got 'cocoo'") in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_recipes_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("make-data", "faster_rcnn", "nproc-per-node", "checkpoint", "bfloat16"):
        assert word in script


def test_bash_completes_a_flag() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "ignite_imgtools", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    program = (
        f"{script}\nCOMP_WORDS=(ignite-imgtools train faster_rcnn --nproc); COMP_CWORD=3\n"
        "_shtab_ignite_imgtools\necho ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "--nproc-per-node"


def test_a_traceback_is_for_those_who_ask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ["check", "coco", "--data", str(tmp_path / "nowhere")]
    assert main(args) == 2
    line = capsys.readouterr().err
    assert "Traceback" not in line
    for asked in (["--debug", *args], [*args, "--debug"]):
        assert main(asked) == 2
        err = capsys.readouterr().err
        assert err.startswith("Traceback")
        assert err.endswith(line)


def test_an_error_is_shown_with_the_one_it_was_made_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    assert main(["--debug", "make-data", "coco", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "FileExistsError" in err
    assert "UsageError" in err


def test_paths_that_cannot_be_written_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    (tmp_path / "b" / "report.html").mkdir()
    assert main(["report", str(tmp_path / "b")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "report.html cannot be written" in err


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_tells_the_defaults_of_a_recipe(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    kind = load_recipe(recipe).Config
    with pytest.raises(SystemExit) as left:
        main(["train", recipe, "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "None" not in shown
    told = f"(default: {kind.FULL['epochs']}; for the built-in set on a CPU {kind.SMALL['epochs']})"
    assert f"--epochs N Number of epochs. {told}" in shown
    for flag in [*kind.FULL, "log_every", "output_dir"]:
        assert f"--{flag.replace('_', '-')} " in shown


def test_help_tells_values_of_data_alone_and_of_the_built_in_set_alone() -> None:
    config_kind = with_told_defaults(load_recipe("coco_detection").Config, "coco_detection", ["--help"])
    hints = {name: kind.__metadata__[-1] for name, kind in config_kind.__annotations__.items()}
    assert hints["anchor_sizes"].help_behavior_hint.startswith("(default for the built-in set on a CPU: 8 11")
    assert hints["lr_steps"].help_behavior_hint == "(default: 16 22; for the built-in set on a CPU none)"
    assert hints["fpn"].metavar == "True|False"
    assert hints["head_norm"].metavar == "none|group"
    assert hints["clip_norm"].help_behavior_hint == ""
    assert config_kind() == config_kind()
    kind = load_recipe("unet").Config
    assert with_told_defaults(kind, "unet", ["--epochs", "3"]) is kind


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_says_that_a_default_is_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    takes_recipe = command in ("train", "evaluate", "predict", "find-lr", "import", "export")
    status: Any
    try:
        status = main([command, *(["hrnet"] if takes_recipe else []), "--help"])
    except SystemExit as left:
        status = left.code
    assert status == 0
    shown = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert f"usage: ignite-imgtools {command}" in shown
    assert "None" not in shown


def test_help_of_an_evaluation_tells_no_defaults_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "hrnet", "--help"])
    shown = capsys.readouterr().out
    assert "--epochs" in shown
    assert "(default: 0" not in shown
    assert "210 epochs" not in shown


@pytest.mark.parametrize("no_color", [False, True])
def test_help_has_colours_on_a_terminal_unless_they_are_not_wanted(no_color: bool) -> None:
    screen, terminal = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"TERM": "xterm"} | ({"NO_COLOR": "1"} if no_color else {})
    command = [sys.executable, "-m", "ignite_imgtools", "report", "--help"]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # as which the end of a terminal arrives
            while chunk := os.read(screen, 4096):
                shown += chunk
    os.close(screen)
    assert process.returncode == 0
    assert b"--help" in shown
    assert (b"\x1b[" in shown) != no_color


@pytest.mark.parametrize("columns", ["1", "4"])
def test_help_ends_on_a_terminal_that_is_too_narrow(columns: str) -> None:
    command = [sys.executable, "-m", "ignite_imgtools", "report", "--help"]
    done = subprocess.run(command, env=os.environ | {"COLUMNS": columns}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "--help" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; from ignite_imgtools.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
