"""The two formats in which the packages meet: the batch, and what a step returns.

Everything that crosses a package border is described here: the keys, shapes, dtypes and units of a batch; the
outputs of a training and of an evaluation step; and the few attributes that our parts keep on ``engine.state``,
since handlers read nothing else.

Attributes of ``trainer.state`` beside ignite's own:

``lr``
    list of the learning rates, one for each parameter group, with which the last iteration was computed.
``at_step_boundary``
    ``False`` in the middle of an accumulation window, else ``True``: only then may a checkpoint be taken.
``epoch_began_after``
    the iteration after which the current epoch began: not always a multiple of ``epoch_length``, since an epoch may be
    cut short by ``terminate_epoch()``. After an epoch it is where the next one begins; ``None`` while a run has not
    begun its first one, and its checkpoint does not say (:func:`follow_epochs`).
``epoch_is_open``
    whether ``epoch`` has begun and not ended.
``evaluations``
    ``{name: {metric: number}}``, the newest result of each evaluation; ``evaluated`` is the name of the newest.
``logged``
    what the MetricLogger's newest line says, a :class:`LoggedMetrics`; ``log_every`` is its interval in iterations.
``resumables``
    ``{name: object}`` with ``state_dict()`` and ``load_state_dict(state)``: what a checkpoint holds beside the
    objects its user names. An object may have ``check_state_dict(state)`` too: a list of what makes a state not fit,
    so that a resume is refused before anything is loaded.
``checkpoint``
    path of the newest checkpoint that is on disk, or that the run went on from.
``non_finite_watch``
    the NonFiniteWatch of this trainer; its ``flush()`` looks at the newest step before a checkpoint is taken.

Attributes of ``evaluator.state``, filled at ``EPOCH_COMPLETED`` and read at ``COMPLETED``, on the main process:

``images``
    ``{name: uint8 array [H, W, 3]}``, pictures for people, as ``predictions``.
``figures``
    ``{name: matplotlib Figure}``, as ``pr_curve`` and ``confusion_matrix``.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from ignite.engine import Engine, EventEnum, Events
from torch import Tensor
from torch.utils import _pytree as pytree
from typing_extensions import NotRequired, TypedDict

__all__ = [
    "DataError",
    "DetectionBatch",
    "DetectionPrediction",
    "DetectionTarget",
    "EvaluationOutput",
    "LoggedMetrics",
    "Resumable",
    "StepTerms",
    "TrainerEvents",
    "check_detection_batch",
    "follow_epochs",
    "image_ids",
    "images_to_device",
    "one_line",
    "register_resumable",
    "register_trainer_events",
    "resumables",
    "targets_to_device",
]


# Control characters, which terminals obey; line and paragraph separators; those that turn the direction of what
# follows; halves of characters, which no UTF-8 stream takes (and as which Python shows undecodable bytes of a name).
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that no name has to have, and that do harm where it is shown."""


def one_line(text: str) -> str:
    """``text`` as it may be printed or logged wherever it came from: breaks of lines become blanks, other characters
    that are not to be shown become their escapes.

    >>> one_line("a\\nb\\x1b[31m.jpg")
    'a b\\\\x1b[31m.jpg'
    """
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), " ".join(text.splitlines()))


class DataError(ValueError):
    """Bad data or annotations: one line that names the file, the annotation, what was expected and what came.

    ``str()`` of it is :func:`one_line`, whatever names of files and classes are in the message.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class NonFiniteError(RuntimeError):
    """A loss or gradient is not finite: one line with the iteration, the loss terms and the images of that batch."""


class DetectionTarget(TypedDict):
    """Ground truth of one image with ``N`` objects.

    ``boxes`` float32 ``[N, 4]`` xyxy in pixels; ``labels`` int64 ``[N]``, 0 is background; ``image_id`` int;
    ``area`` float32 ``[N]`` in square pixels; ``iscrowd`` bool ``[N]``; ``masks`` uint8 ``[N, H, W]`` of 0 and 1;
    ``keypoints`` float32 ``[N, K, 3]``: x, y in pixels and the visibility 0, 1 or 2.
    """

    boxes: Tensor
    labels: Tensor
    image_id: int
    area: Tensor
    iscrowd: Tensor
    masks: NotRequired[Tensor]
    keypoints: NotRequired[Tensor]


class DetectionPrediction(TypedDict):
    """What a detector says of one image: ``boxes`` ``[N, 4]`` xyxy in pixels of the original image, ``labels``
    int64 ``[N]``, ``scores`` ``[N]`` in 0..1 and, where the model has them, ``masks`` ``[N, 1, H, W]`` in 0..1 and
    ``keypoints`` ``[N, K, 3]``."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: NotRequired[Tensor]
    keypoints: NotRequired[Tensor]


DetectionBatch = tuple[list[Tensor], list[DetectionTarget]]
"""``(images, targets)``: each image float32 in 0..1 or uint8 in 0..255, ``[3, H, W]``."""


class EvaluationOutput(TypedDict):
    """What an evaluation step returns; ``y_pred`` and ``y`` are ignite's words, so its metrics attach as they are."""

    y_pred: Any
    y: Any
    batch_size: int


class Resumable(Protocol):
    """An object whose state belongs into a checkpoint.

    ``state_dict`` is called on every process, at the same step, and may communicate; its result is written by one
    process and must consist of tensors, numbers, strings, lists and dicts, so that
    ``torch.load(weights_only=True)`` reads it.
    """

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state, or raise and change nothing."""


class TrainerEvents(EventEnum):
    """Events a trainer fires beside ignite's."""

    EVALUATION_COMPLETED = "evaluation_completed"
    """``trainer.state.evaluations`` holds a new result; ``trainer.state.evaluated`` is its name."""

    METRICS_LOGGED = "metrics_logged"
    """``trainer.state.logged`` holds new means of the training; fired on every process."""


if TYPE_CHECKING:
    _AskingDict = dict[str, Any]
else:

    class _AskingDict(MutableMapping, dict):
        """A dict whose methods take values by ``self[key]``; dict's own look past an overridden ``__getitem__``."""


class StepTerms(_AskingDict):
    """Output of a training step whose loss terms are the elements of one vector, and whose loss is their sum.

    The elements and the sum are made tensors of their own when one of them is first read, which takes longer than all
    else that a step does with them: who copies the values of many steps copies vectors, where they are unread.

    A dict as any other to Python code; ``dict(output)`` is a plain one, which code in C needs that looks past the
    methods of a dict (orjson, TorchScript, ``==`` of another subclass of dict on the left).

    Attributes:
        terms: names of the elements, in their order; none once one of them, or the loss, was read, set or deleted.
        vector: the 1-dimensional tensor that they are the elements of, ``None`` if there are no ``terms``.
    """

    terms: tuple[str, ...] = ()
    vector: Tensor | None = None

    @classmethod
    def of(cls, names: Iterable[str], vector: Tensor) -> StepTerms:
        """``{"loss": their sum, name: element, ...}``; vector ``[N]``, detached; N names, none of which is ``loss``.

        Raises:
            ValueError: the names are not as many, not different, or ``loss`` is among them.
        """
        names = tuple(names)
        output = cls(dict.fromkeys(("loss", *names), _UNREAD))
        if len(output) != len(names) + 1 or len(names) != vector.shape[0]:
            raise ValueError(f"{len(vector)} elements need as many names other than 'loss', got {names}")
        output.terms, output.vector = names, vector
        return output

    def _read(self) -> None:
        terms, vector = self.terms, self.vector
        if vector is None or not terms:  # the latter while another thread is at the end of this
            return
        with torch.inference_mode(False):  # whoever is first to read, others may go on to compute with them
            elements = vector.unbind()
            dict.update(self, zip(terms, elements, strict=True), loss=sum_terms(elements))
        self.terms = ()
        self.vector = None

    def _read_for(self, key: str) -> None:
        if key == "loss" or key in self.terms:
            self._read()

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if value is _UNREAD:
            self._read()
            value = dict.__getitem__(self, key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._read_for(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._read_for(key)
        dict.__delitem__(self, key)

    # In Python, since who finds dict's own takes the values without asking, as ``{**output}`` does.
    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        return dict.__reversed__(self)

    def popitem(self) -> tuple[str, Any]:
        if not self:
            raise KeyError("popitem(): dictionary is empty")
        name = next(reversed(self))
        return name, self.pop(name)

    __len__ = dict.__len__
    __contains__ = dict.__contains__

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # As what ``torch.load(weights_only=True)`` takes.
        return OrderedDict, (list(self.items()),)

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return other | dict(self) if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> StepTerms:  # type: ignore[override]  # as dict's, in fewer forms
        self.update(other)
        return self


# torch knows the types of its trees one by one: else this one would be a leaf.
pytree.register_pytree_node(
    StepTerms,
    lambda output: (list(output.values()), list(output)),
    lambda values, names: dict(zip(names, values, strict=True)),
    serialized_type_name="ignite_imgtools.formats.StepTerms",
)


def sum_terms(terms: Sequence[Tensor]) -> Tensor:
    """The loss of these terms, from left to right, so that each of many losses summed at once has the same bits."""
    return functools.reduce(operator.add, terms)


_UNREAD: Any = object()
"""Stands in :class:`StepTerms` for an element that has not been made a tensor of its own."""


class LoggedMetrics(TypedDict):
    """Means over the iterations since the previous line of a log: what each consumer shares, so that the values
    leave the device once.

    ``metrics`` holds the terms of the step's output, weighted by batch size over all processes; ``lr`` one number for
    each parameter group, none where the trainer does not say; ``time`` and ``data_time`` are seconds of this
    process an iteration, and those of them in which it waited for the batch.
    """

    epoch: int
    iteration: int
    lr: list[float]
    metrics: dict[str, float]
    time: float
    data_time: float


def register_trainer_events(engine: Engine) -> None:
    """Let ``engine`` fire :class:`TrainerEvents`; done twice, the second time nothing happens.

    They count in iterations, so that ignite's loggers can be attached to them, with the iteration as their step.
    """
    engine.register_events(*TrainerEvents, event_to_attr=dict.fromkeys(TrainerEvents, "iteration"))


def follow_epochs(engine: Engine) -> None:
    """Keep ``engine.state.epoch_began_after`` from now on; done twice, the second time nothing happens."""
    state: Any = engine.state
    if not hasattr(state, "epoch_began_after"):
        state.epoch_began_after, state.epoch_is_open = None, False
        engine.add_event_handler(Events.STARTED, _forget_epoch)
        engine.add_event_handler(Events.EPOCH_STARTED, _note_epoch)
        for event in (Events.TERMINATE_SINGLE_EPOCH, Events.EPOCH_COMPLETED):  # the former alone, if so asked
            engine.add_event_handler(event, _end_epoch)


def _forget_epoch(engine: Engine) -> None:
    state: Any = engine.state
    if not state.iteration:
        engine._init_iter = None  # left by the resume of a run that had nothing more to do
    elif engine._init_iter is None and not state.epoch_is_open and state.epoch_began_after == state.iteration:
        engine._init_iter = 0  # after an epoch that was cut short, ignite would begin within the next one
    state.epoch_began_after, state.epoch_is_open = None, False


def _note_epoch(engine: Engine) -> None:
    state: Any = engine.state
    done = 0
    if engine._init_iter is not None:
        # Noted by ignite where a terminated run begins an epoch anew, and by a resume within an epoch.
        done = engine._init_iter
    elif state.epoch_began_after is None and state.epoch_length:
        done = state.iteration % state.epoch_length
    state.epoch_began_after, state.epoch_is_open = state.iteration - done, True


def _end_epoch(engine: Engine, iter_counter: int | None = None) -> None:
    state: Any = engine.state
    state.epoch_began_after, state.epoch_is_open = state.iteration, False


def register_resumable(engine: Engine, name: str, resumable: Any) -> None:
    """Make ``resumable`` part of every checkpoint taken of ``engine``, under ``name``.

    Raises:
        ValueError: another object is registered under this name.
    """
    known = resumables(engine)
    if known.setdefault(name, resumable) is not resumable:
        raise ValueError(f"resumable {name!r} is registered already, by a {type(known[name]).__name__}")


def resumables(engine: Engine) -> dict[str, Any]:
    """The objects registered with :func:`register_resumable`, by name."""
    state: Any = engine.state
    if not hasattr(state, "resumables"):
        state.resumables = {}
    known: dict[str, Any] = state.resumables
    return known


def images_to_device(images: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Move images to ``device`` without waiting for the copy; uint8 images become contiguous float32 in 0..1 there."""
    moved = (image.to(device, non_blocking=True) for image in images)
    return [_scaled(image) if image.dtype == torch.uint8 else image for image in moved]


def _scaled(image: Tensor) -> Tensor:
    # In one pass: as it comes from a decoder, the channels of a pixel stand together.
    return image.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def targets_to_device(targets: Sequence[Mapping[str, Any]], device: torch.device | str) -> list[dict[str, Any]]:
    """Move every tensor of every target to ``device`` without waiting for the copy."""
    return [
        {key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in t.items()}
        for t in targets
    ]


def image_ids(batch: Any) -> list[int] | None:
    """The ``image_id`` of each target of a batch, or ``None`` for a batch without.

    Targets are a list of dicts, each with an ``image_id``, or a dict of stacked values with a list of them.
    """
    try:
        _, targets = batch
        if isinstance(targets, Mapping):
            return [int(image_id) for image_id in targets["image_id"]]
        return [int(target["image_id"]) for target in targets]
    except (TypeError, ValueError, KeyError, IndexError):
        return None


def check_detection_batch(images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]) -> None:
    """Check that a batch is a detection batch; what is checked costs no device synchronisation.

    Raises:
        DataError: a key is missing, or a shape or dtype is not that of the format; names the image id.
    """
    if len(images) != len(targets):
        raise DataError(f"a detection batch has one target for each image, got {len(images)} and {len(targets)}")
    for image, target in zip(images, targets, strict=True):
        where = f"image_id {target.get('image_id', '(missing)')}"
        if image.ndim != 3 or image.shape[0] != 3:
            raise DataError(f"{where}: an image must be [3, H, W], got {list(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise DataError(f"{where}: an image must be uint8 or floating point, got {image.dtype}")
        for key in ("boxes", "labels", "image_id"):
            if key not in target:
                raise DataError(f"{where}: the target has no {key!r}, only {sorted(target)}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise DataError(f"{where}: boxes must be floating point [N, 4], got {boxes.dtype} {list(boxes.shape)}")
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise DataError(
                f"{where}: labels must be int64 [{boxes.shape[0]}], got {labels.dtype} {list(labels.shape)}"
            )
