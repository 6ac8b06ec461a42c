"""Models written as ONNX, TorchScript or torch.export, and run again to see that they give the same numbers."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.exportable import Exportable

__all__ = ["TOLERANCE", "Format", "largest_difference", "write_export"]

Format = Literal["onnx", "torchscript", "export"]
Run = Callable[[Tensor], tuple[Tensor, ...]]

TOLERANCE = 1e-3
"""How far a number may be from the model's, as a part of the largest one of its output."""
_OPSET = 17
_UNMATCHED, _NEAR = 0.05, 0.01


def write_export(model: Exportable, kind: Format, path: Path, image: Tensor | None = None) -> float:
    """Write a model, load what was written, and run both.

    Args:
        path: the file; written whole or not at all.
        image: to run detectors on, float32 ``[3, H, W]`` in 0..1; by default noise.

    Returns:
        The largest difference, of :func:`largest_difference`.

    Raises:
        ConfigError: the model cannot be written in this format, a package is missing, or the numbers differ by more
            than :data:`TOLERANCE`.
    """
    temporary = path.with_name(f"tmp-{os.getpid()}-{path.name}")  # torch refuses names that begin with a dot
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with torch.inference_mode(), _quiet():
            run = _written(model, kind, temporary)
            difference = _compare(model, run, image)
        if not difference <= TOLERANCE:
            if model.detections and difference == float("inf"):
                raise ConfigError(
                    f"--to {kind}: what was written finds other objects than the model; nothing is kept. Hardly "
                    "trained, a detector gives many boxes the same score, and any are chosen: train it first, or take "
                    "another format"
                )
            raise ConfigError(
                f"--to {kind}: what was written differs from the model by {difference:.2g} of its largest output, more "
                f"than {TOLERANCE:g}; nothing is kept; take another format"
            )
        os.replace(temporary, path)  # noqa: PTH105
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _written(model: Exportable, kind: Format, path: Path) -> Run:
    try:
        return {"onnx": _onnx, "torchscript": _torchscript, "export": _torch_export}[kind](model, path)
    except (ConfigError, OSError):
        raise
    except Exception as error:  # torch has dozens of kinds for what its compilers do not take
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        raise ConfigError(f"--to {kind}: torch cannot write this model: {reason[:200]}; take another format") from error


def _compare(model: Exportable, run: Run, image: Tensor | None) -> float:
    generator = torch.Generator().manual_seed(0)
    shape = list(model.example.shape)
    if model.detections:
        # Turned, an image is resized by the same factor. At others torchvision rounds to another pixel in TorchScript
        # than in Python, and finds a little else.
        inputs = [model.example, torch.rand(shape[0], shape[2], shape[1], generator=generator)]
        if image is not None:
            inputs.append(interpolate(image[None], size=shape[1:], mode="bilinear", antialias=True)[0])
    else:
        inputs = [model.example, torch.rand(shape[0] + 1, *shape[1:], generator=generator)]
    return max(largest_difference(_tuple(model.module(x)), run(x), model.detections) for x in inputs)


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor], detections: bool = False) -> float:
    """The largest difference of two numbers, as a part of the largest number of the output; infinite for another shape.

    Of masks, which are bool, it is the share of pixels that differ.

    Args:
        detections: outputs are boxes, labels, scores and others of as many detections. Each is compared with the one
            that resembles it, wherever that stands: the last bit of a score may change their order. It may also decide
            which of two boxes suppresses the other, so that one in twenty may have no counterpart.
    """
    if detections:
        ours, theirs = _counterparts(expected[:3], found[:3])
        if len(ours) < (1 - _UNMATCHED) * max(len(expected[0]), len(found[0])):
            return float("inf")
        expected, found = [tensor[ours] for tensor in expected], [tensor[theirs] for tensor in found]
    if any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _counterparts(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Which detections are each other's most similar ones, of the same label and almost the same place."""
    (boxes, labels, scores), (others, their_labels, their_scores) = expected, found
    if not len(boxes) or not len(others):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    near = torch.cdist(boxes.double(), others.double(), p=torch.inf) / boxes.abs().max().clamp(min=1)
    apart = near + (scores.double()[:, None] - their_scores.double()).abs() + (labels[:, None] != their_labels)
    nearest, back = apart.argmin(dim=1), apart.argmin(dim=0)
    own = torch.arange(len(boxes))
    kept = (back[nearest] == own) & (apart[own, nearest] < _NEAR)
    return own[kept], nearest[kept]


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    if a.dtype == torch.bool:
        # Masks in the size of the image: the last bit of a box decides whether a row of pixels is in it.
        return float((a.double() - b.double()).abs().mean())
    return float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp(min=1e-12))


def _tuple(output: Any) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _torchscript(model: Exportable, path: Path) -> Run:
    if model.scripted is not None:
        written = torch.jit.script(model.scripted)
    else:
        written = torch.jit.trace(model.module, model.example)
    torch.jit.save(written, str(path))
    # Run as it was compiled: this package loads no file that may hold code.
    return lambda x: _tuple(written(x))


def _torch_export(model: Exportable, path: Path) -> Run:
    if model.detections:
        raise ConfigError(
            "--to export: torch.export cannot follow a detector, whose steps depend on how many boxes were found; "
            "take --to onnx or --to torchscript"
        )
    program = torch.export.export(model.module, (model.example,), dynamic_shapes=(_dimensions(model),))
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        loaded: nn.Module = torch.export.load(file).module()
    return lambda x: _tuple(loaded(x))


def _onnx(model: Exportable, path: Path) -> Run:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--to onnx needs the package {error.name}: pip install 'ignite_imgtools[export]'") from None
    options: dict[str, Any] = {"input_names": [model.input], "output_names": list(model.outputs)}
    if model.detections:
        # torch's newer exporter goes by torch.export, which cannot follow a detector.
        options |= {"dynamo": False, "opset_version": _OPSET, "dynamic_axes": _named_dimensions(model)}
    else:
        options |= {"dynamo": True, "external_data": False, "dynamic_shapes": (_dimensions(model),), "verbose": False}
    torch.onnx.export(model.traced or model.module, (model.example,), str(path), **options)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])
    return lambda x: tuple(torch.from_numpy(output) for output in session.run(None, {model.input: x.numpy()}))


def _dimensions(model: Exportable) -> dict[int, Any]:
    return {dimension: torch.export.Dim(name, min=1) for dimension, name in model.dynamic.items()}


def _named_dimensions(model: Exportable) -> dict[str, Any]:
    return {model.input: model.dynamic, **{name: {0: "detections"} for name in model.outputs}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own deprecations and of each constant in a trace."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
