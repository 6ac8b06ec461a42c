"""Damage checkpoints, and load those of something else: what is refused, what is used, and what is left as it was.

1. Files under the name of the newest checkpoint: 64 with one flipped bit, 20 that are cut off, an empty one, other
   damages, other versions, foreign ones. Each must be refused in one line that names it, and ``resume="auto"`` must go
   on from the newest good one, to the same end; what was whole is kept under another name.
2. Checkpoints of another model, class count, optimizer and so on: each must be refused in one line that names the file
   and what differs, by key and shape, and the bits of everything must be those of before.
3. Weights of another class count, for a model of each kind: refused as checkpoint, while ``load_weights``, which is
   behind ``--weights``, loads the part that fits and says which, and nothing else changes.

    python -m tests.faults.torn           # the long form
    python -m tests.faults.torn --quick   # the short form, in CI

prints ``N of N`` for each.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import random
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_imgtools import models
from ignite_imgtools.formats import register_resumable, resumables
from ignite_imgtools.handlers import (
    CheckpointError,
    attach_checkpoints,
    load_checkpoint,
    load_model,
    newest_valid_checkpoint,
    save_checkpoint,
)
from ignite_imgtools.handlers.checkpoint_folder import load_run
from tests.faults.disks import IN_MEMORY, CannotMount
from tests.handlers.toy_training import Toy, create_toy, digest

__all__ = ["Messages", "Tried", "print_parts", "try_damages", "try_mismatches", "try_weights"]

State = dict[str, Any]


class Tried:
    """Cases that were tried; ``str()`` says how many were right, and what was wrong with the others."""

    def __init__(self) -> None:
        self.cases = 0
        self.wrong: list[str] = []

    def add(self, what: str, found: list[str]) -> None:
        """A case, and what was found wrong with it."""
        self.cases += 1
        if found:
            self.wrong.append(f"{what}: {'; '.join(found)}")

    def __str__(self) -> str:
        return "\n  ".join([f"{self.cases - len(self.wrong)} of {self.cases}", *self.wrong])


def print_parts(parts: Mapping[str, Callable[[], Tried]]) -> int:
    """Try one part after the other, and print what comes out; the exit status."""
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # it logs each error that ends a run
    failed = False
    for what, attempt in parts.items():
        try:
            tried = attempt()
        except CannotMount as error:
            print(f"{what}: skipped: {error}", flush=True)
            continue
        print(f"{what}: {tried}", flush=True)
        failed |= bool(tried.wrong)
    return int(failed)


# 1. Damaged and foreign files


def _damages(content: bytes, flips: int, cuts: int) -> Iterator[tuple[str, bytes]]:
    draw = random.Random(0)
    for bit in sorted(draw.sample(range(8 * len(content)), flips)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(flipped)
    for length in sorted(draw.sample(range(1, len(content)), cuts)):
        yield f"cut off after {length} bytes", content[:length]
    half = len(content) // 2
    yield "empty", b""
    yield "zeros of the same size", bytes(len(content))
    yield "zeros from the middle", content[:half] + bytes(len(content) - half)
    yield "a block of zeros", content[:half] + bytes(64) + content[half + 64 :]
    yield "halves exchanged", content[half:] + content[:half]
    yield "a byte more", content + b"\0"
    yield "twice", content + content
    yield "random bytes", draw.randbytes(len(content))
    yield "a page of html", b"<html><body>404 Not Found</body></html>"
    yield "a pickle", pickle.dumps({"model": [1.0]})


def _foreign(state: State) -> Iterator[tuple[str, Callable[[Path], None]]]:
    for version in (2, 0, "1", None):
        yield f"version {version!r}", lambda path, version=version: save_checkpoint({**state, "version": version}, path)
    yield "another format", lambda path: save_checkpoint({**state, "format": "other"}, path)
    yield "no position", lambda path: save_checkpoint({k: v for k, v in state.items() if k != "trainer"}, path)
    yield "a state dict", lambda path: torch.save(state["model"], path)
    yield "a tensor", lambda path: torch.save(torch.ones(2), path)
    yield "an object", lambda path: torch.save(nn.Linear(1, 1), path)
    yield "a zip of text", _zip_of_text
    yield "a folder", lambda path: path.mkdir()
    yield "a pipe", lambda path: os.mkfifo(path)


def _zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


def try_damages(flips: int = 64, cuts: int = 20, *, resume_each: int = 1) -> Tried:
    """Put a damaged or foreign file in the place of the newest checkpoint.

    Args:
        resume_each: go on from what is left after every so many cases; the rest are only looked at.
    """
    tried = Tried()
    expected = create_toy().run(3).digest()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, Messages() as messages:
        original = Path(name) / "original"
        toy = create_toy()
        toy.attach(original)
        toy.run(2)
        content = (original / "checkpoints" / "last.pt").read_bytes()
        state = load_checkpoint(original / "checkpoints" / "last.pt")
        cases: list[tuple[str, Callable[[Path], Any], bool]] = [
            (what, lambda path, data=data: path.write_bytes(data), False)
            for what, data in _damages(content, flips, cuts)
        ]
        cases += [(what, write, True) for what, write in _foreign(state)]
        for number, (what, write, whole) in enumerate(cases):
            folder = Path(name) / "run"
            shutil.copytree(original, folder)
            last = folder / "checkpoints" / "last.pt"
            last.unlink()
            write(last)
            messages.clear()
            found = _refusal(last)
            if newest_valid_checkpoint(folder / "checkpoints") != folder / "checkpoints" / "previous-00000009.pt":
                found.append("the newest good one is not found")
            if whole or number % resume_each == 0:
                found += _goes_on(folder, expected, messages, whole)
            tried.add(what, found)
            shutil.rmtree(folder)
    return tried


def _refusal(path: Path) -> list[str]:
    try:
        load_run(path)
    except CheckpointError as error:
        return _line_faults(str(error), re.escape(str(path)))
    return ["loaded"]


def _goes_on(folder: Path, expected: str, messages: list[str], whole: bool) -> list[str]:
    toy = create_toy()
    handle = toy.attach(folder)
    toy.run(3)
    found = [] if toy.digest() == expected else ["another end"]
    if handle.resumed_from is None or handle.resumed_from.name != "previous-00000009.pt":
        found.append(f"went on from {handle.resumed_from}")
    if not any(str(folder / "checkpoints" / "last.pt") in line for line in messages):
        found.append("the file is not named in the log")
    kept = list((folder / "checkpoints").glob("foreign-*"))
    return found if bool(kept) == whole else [*found, f"kept: {kept}"]


def _line_faults(message: str, *parts: str) -> list[str]:
    missing = [f"{part!r} is not in {message!r}" for part in parts if not re.search(part, message)]
    return [*missing, "more than a line"] if "\n" in message else missing


class Messages(logging.Handler):
    """The messages of the log, and nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._logger = logging.getLogger("ignite_imgtools")

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self._logger.addHandler(self)
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        return self.lines

    def __exit__(self, *args: Any) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._before[0])
        self._logger.propagate = self._before[1]


# 2. Checkpoints of something else


class _Odd:
    """An object that refuses its state, in the way that ``how`` says."""

    def __init__(self, how: str):
        self._how = how
        self.value = torch.zeros(3)
        if how == "checks":
            self.check_state_dict = lambda state: ["seed is 1 in the file, 2 here"]

    def state_dict(self) -> State:
        return {"value": self.value}

    def load_state_dict(self, state: State) -> None:
        if self._how == "half":
            self.value.add_(1)
            if "value" in state:
                self.value.copy_(state["value"])
                return
        raise ValueError("groups differ")


Change = Callable[[Toy], "State | None"]


def _objects(change: Callable[[Toy], State]) -> Change:
    return lambda toy: toy.to_save() | change(toy)


def _resumable(name: str, item: Any) -> Change:
    def change(toy: Toy) -> None:
        resumables(toy.trainer).pop(name, None)
        if item is not None:
            register_resumable(toy.trainer, name, item)

    return change


def _other_data(name: str, value: Any) -> Change:
    return lambda toy: setattr(toy.loader.batch_sampler, name, value)


def _sgd(toy: Toy, parameters: Any) -> State:
    return {"optimizer": torch.optim.SGD(parameters, lr=0.1, momentum=0.9)}


# What is changed about the run that loads, and what must be told.
_OTHER_RUNS: dict[str, tuple[Change, str]] = {
    "another model": (
        _objects(lambda toy: {"model": models.unet(2, base_channels=4)}),
        r"missing key \S+, .*and \d+ more",
    ),
    "more layers": (
        _objects(lambda toy: {"model": nn.Sequential(*toy.model, nn.Linear(3, 3))}),
        r"model: missing key 4\.weight, missing key 4\.bias",
    ),
    "fewer layers": (_objects(lambda toy: {"model": toy.model[:3]}), r"model: unexpected key 3\.weight"),
    "another name": (_objects(lambda toy: {"model": nn.ModuleDict({"net": toy.model})}), r"missing key net\.0\.weight"),
    "another type": (
        _objects(lambda toy: {"model": toy.model.bfloat16()}),
        r"0\.weight is float32 .* bfloat16 \[8, 6\] here",
    ),
    "another optimizer": (
        _objects(lambda toy: {"optimizer": torch.optim.Adam(toy.model.parameters())}),
        "optimizer: a SGD in the file, a Adam here",
    ),
    "other groups": (
        _objects(lambda toy: _sgd(toy, [{"params": [p]} for p in toy.model.parameters()])),
        r"parameter groups of \[6\] parameters in the file, of \[1, 1, 1, 1, 1, 1\] here",
    ),
    "another order of parameters": (
        _objects(lambda toy: _sgd(toy, list(toy.model.parameters())[::-1])),
        r"momentum_buffer of parameter 0 is float32 \[8, 6\] in the file, float32 \[3\] here",
    ),
    "another schedule": (
        _objects(lambda toy: {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(toy.optimizer, 3)}),
        "scheduler: a StepLR in the file, a CosineAnnealingLR here",
    ),
    "no schedule": (
        lambda toy: {"model": toy.model, "optimizer": toy.optimizer},
        "file has a 'scheduler', this run has none",
    ),
    "one object more": (_objects(lambda toy: {"extra": toy.scheduler}), "the file has no 'extra'"),
    "no average": (_resumable("average", None), "the file has a resumable 'average', this run has none"),
    "one resumable more": (_resumable("odd", _Odd("refuses")), "the file has no resumable 'odd'"),
    "a resumable that refuses": (_resumable("average", _Odd("refuses")), "resumables/average: groups differ"),
    "a resumable that loads by half": (_resumable("average", _Odd("half")), "resumables/average: groups differ"),
    "a resumable that checks": (_resumable("average", _Odd("checks")), "average: seed is 1 in the file, 2 here"),
    "another seed of the order": (_other_data("seed", 7), "sampler.*seed"),
    "another batch size": (_other_data("batch_size", 5), "sampler.*batch_size"),
}


def _drop(path: str) -> Callable[[State], None]:
    *parents, key = path.split("/")

    def change(state: State) -> None:
        for parent in parents:
            state = state[parent]
        del state[key]

    return change


def _put(path: str, value: Any) -> Callable[[State], None]:
    *parents, key = path.split("/")

    def change(state: State) -> None:
        for parent in parents:
            state = state[int(parent) if parent.isdigit() else parent]
        state[key] = value

    return change


# What is changed about the file, and what must be told.
_OTHER_FILES: dict[str, tuple[Callable[[State], None], str]] = {
    "a missing key": (_drop("model/0.weight"), r"model: missing key 0\.weight"),
    "an unexpected key": (_put("model/9.weight", torch.ones(1)), r"model: unexpected key 9\.weight"),
    "another shape": (
        _put("model/0.weight", torch.ones(8, 7)),
        r"model: 0\.weight is float32 \[8, 7\] in the file, float32 \[8, 6\] here",
    ),
    "no tensor": (_put("model/0.weight", "text"), r"model: 0\.weight is a str in the file, float32 \[8, 6\] here"),
    "a list of weights": (_put("model", [1.0]), "model: the file holds a list, not a state dict"),
    "no optimizer": (_drop("optimizer"), "the file has no 'optimizer'"),
    "an empty optimizer": (_put("optimizer", {}), "optimizer: the file holds no parameter groups"),
    "a text for groups": (_put("optimizer/param_groups", "text"), "optimizer: the file holds no parameter groups"),
    "another shape of the momentum": (
        _put("optimizer/state/0/momentum_buffer", torch.ones(2)),
        r"momentum_buffer of parameter 0 is float32 \[2\] in the file, float32 \[8, 6\] here",
    ),
    "an empty schedule": (_put("scheduler", 3), "scheduler: the file holds a int"),
    "no resumables": (_drop("resumables"), "the file has no resumable 'average'"),
    "a list of resumables": (_put("resumables", []), "does not say where a run stands"),
    "an average of another shape": (
        _put("resumables/average/weights/0.weight", torch.ones(2, 2)),
        "resumables/average: ",
    ),
    "another length of the epoch": (_put("trainer/epoch_length", 7), "an epoch has 7 iterations in the file, 5 here"),
    "a text for the length": (_put("trainer/epoch_length", "7"), "does not say where a run stands"),
    "a negative position": (_put("trainer/iteration", -3), "does not say where a run stands"),
    "a text for the position": (_put("trainer/iteration", "3"), "does not say where a run stands"),
    "no position": (_drop("trainer"), "does not say where a run stands"),
    "other kinds": (_put("kinds", ["SGD"]), "does not say where a run stands"),
}


def _bits(toy: Toy, to_save: Mapping[str, Any]) -> str:
    items = {name: item.state_dict() for name, item in to_save.items()}
    items |= {f"resumables/{name}": item.state_dict() for name, item in resumables(toy.trainer).items()}
    position = (toy.trainer.state.iteration, toy.trainer.state.epoch)
    return digest([toy.digest(), items, position])


def try_mismatches() -> Tried:
    """Resume from checkpoints that do not fit."""
    tried = Tried()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, Messages():
        toy = create_toy()
        toy.attach(Path(name))
        toy.run(1)
        last = Path(name) / "checkpoints" / "last.pt"
        for classes in (1, 4):
            expected = rf"model: 3\.weight is float32 \[3, 8\] in the file, float32 \[{classes}, 8\] here, 3\.bias is"
            tried.add(f"{classes} classes", _mismatch(last, create_toy(classes=classes), None, expected))
        for what, (change, expected) in _OTHER_RUNS.items():
            other = create_toy()
            tried.add(what, _mismatch(last, other, change(other), expected))
        for what, (edit, expected) in _OTHER_FILES.items():
            state = load_checkpoint(last)
            edit(state)
            path = Path(name) / "edited.pt"
            save_checkpoint(state, path)
            tried.add(what, _mismatch(path, create_toy(), None, expected))
    return tried


def _mismatch(path: Path, toy: Toy, to_save: State | None, expected: str) -> list[str]:
    to_save = toy.to_save() if to_save is None else to_save
    attach_checkpoints(toy.trainer, None, to_save, path.parent.parent / "other", resume=path)
    before = _bits(toy, to_save)
    try:
        toy.run()
        found = ["not refused"]
    except CheckpointError as error:
        found = _line_faults(str(error), re.escape(str(path)), expected)
    except Exception as error:
        found = [f"a {type(error).__name__}: {error}"]
    if toy.seen or _bits(toy, to_save) != before:
        found.append("something has changed")
    return found


# 3. The part that fits

# A model of each kind with so many classes, keypoints or points.
_MODELS: dict[str, Callable[[int], nn.Module]] = {
    "classifier": lambda n: models.classifier("shufflenet_v2_x0_5", n),
    "unet": lambda n: models.unet(n, base_channels=4),
    "lraspp": models.lraspp,
    "hrnet": lambda n: models.hrnet_small(n, base_channels=8),
    "deep_pose": lambda n: models.deep_pose(n, "shufflenet_v2_x0_5"),
    "faster_rcnn": lambda n: models.faster_rcnn(n, backbone="resnet18", fpn_channels=16),
    "yolov3_spp": lambda n: models.yolov3_spp(n, width=0.125),
}


def try_weights(names: tuple[str, ...] = tuple(_MODELS)) -> Tried:
    """Load weights of four classes into models of three."""
    tried = Tried()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, Messages() as messages:
        path = Path(name) / "last.pt"
        for kind in names:
            torch.manual_seed(0)
            source = _MODELS[kind](4).state_dict()
            save_checkpoint({"model": source, "trainer": {"iteration": 1, "epoch_length": 1}}, path)
            torch.manual_seed(1)
            model = _MODELS[kind](3)
            before = {key: value.clone() for key, value in model.state_dict().items()}
            messages.clear()
            found = _refused_as_model(path, model, before)
            found += _part_that_fits(path, model, source, before, messages)
            tried.add(kind, found)
    return tried


def _refused_as_model(path: Path, model: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    try:
        load_model(path, model)
        found = ["loaded as model"]
    except CheckpointError as error:
        found = _line_faults(
            str(error), re.escape(str(path)), r"\S+ is float32 \[.*\] in the file, float32 \[.*\] here"
        )
    return found if digest(model.state_dict()) == digest(before) else [*found, "a refused model has changed"]


def _part_that_fits(
    path: Path, model: nn.Module, source: Mapping[str, Tensor], before: Mapping[str, Tensor], messages: list[str]
) -> list[str]:
    report = models.load_weights(model, path)
    fits = {key for key, value in source.items() if before[key].shape == value.shape}
    found = [] if fits and fits == set(report.loaded) else ["not the part that fits"]
    if set(report.other_shape) != set(source) - fits or not report.other_shape:
        found.append("not what has another shape")
    for key, value in model.state_dict().items():
        if not torch.equal(value, source[key] if key in fits else before[key]):
            found.append(f"{key} is wrong")
    said = f"{path}: {len(fits)} weights loaded; {len(report.other_shape)} left as they were for another shape"
    return found if any(line.startswith(said) for line in messages) else [*found, "not told"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer flips and models")
    quick = parser.parse_args().quick
    parts: dict[str, Callable[[], Tried]] = {
        "damaged and foreign files refused, the newest good one used": (
            lambda: try_damages(8, 4, resume_each=6) if quick else try_damages()
        ),
        "checkpoints of something else refused, nothing changed": try_mismatches,
        "weights of which the part that fits was loaded and told": (
            lambda: try_weights(("classifier",) if quick else tuple(_MODELS))
        ),
    }
    return print_parts(parts)


if __name__ == "__main__":
    raise SystemExit(main())
