"""The mean error of landmarks as a share of a length in the face, how often it fails, and the area under its curve."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from ignite.metrics import Metric
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays
from ignite_imgtools.formats import DataError

__all__ = ["LandmarkMetric", "Normaliser", "face_length", "normalised_errors"]

Normaliser = Literal["inter_ocular", "inter_pupil", "box"]

# Numbers of the outer corners of the eyes, and of the points whose mean is a pupil, by the number of points: WFLW's 98
# have the pupils themselves, iBUG's 68 six points around each eye.
_CORNERS = {98: (60, 72), 68: (36, 45)}
_PUPILS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    98: ((96,), (97,)),
    68: (tuple(range(36, 42)), tuple(range(42, 48))),
}


def face_length(
    points: NDArray[np.float64], normaliser: Normaliser, boxes: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """The length in each face by which errors are divided.

    Args:
        points: the truth, ``[N, K, 2]``; the eyes are known of 98 points (WFLW) and of 68 (iBUG, 300W).
        normaliser: ``"inter_ocular"``: from one outer corner of the eyes to the other; ``"inter_pupil"``: from one
            pupil to the other, of 68 points from the mean of one eye's six points to that of the other's; ``"box"``:
            the square root of the area of the box.
        boxes: ``[N, 4]`` xyxy, for ``"box"``; by default those that just hold the points.

    Returns:
        float64 ``[N]``.

    Raises:
        ValueError: the normaliser is not known, or the eyes are not among so many points.
    """
    if normaliser not in get_args(Normaliser):
        raise ValueError(f"normaliser must be one of {', '.join(get_args(Normaliser))}, got {normaliser!r}")
    if normaliser == "box":
        lowest, highest = (points.min(axis=1), points.max(axis=1)) if boxes is None else (boxes[:, :2], boxes[:, 2:])
        area: NDArray[np.float64] = np.clip(highest - lowest, 0, None).prod(axis=1)
        return np.sqrt(area)
    count = points.shape[1]
    if count not in _CORNERS:
        raise ValueError(
            f"{normaliser} knows the eyes of {' or '.join(map(str, _CORNERS))} points, got {count}: take 'box'"
        )
    sides: Any = [[corner] for corner in _CORNERS[count]] if normaliser == "inter_ocular" else _PUPILS[count]
    one, other = (points[:, list(side)].mean(axis=1) for side in sides)
    length: NDArray[np.float64] = np.sqrt(((one - other) ** 2).sum(axis=1))
    return length


def normalised_errors(
    predicted: NDArray[np.float64],
    truth: NDArray[np.float64],
    normaliser: Normaliser = "inter_ocular",
    boxes: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The normalised mean error of each face: the mean distance of its points, divided by :func:`face_length`.

    Args:
        predicted: ``[N, K, 2]``; what is not a number is infinitely far away.
        truth: ``[N, K, 2]``.
        normaliser: see :func:`face_length`.
        boxes: see :func:`face_length`.

    Returns:
        float64 ``[N]``, NaN for a face of no length.
    """
    distances = np.sqrt(((predicted - truth) ** 2).sum(axis=2))
    distances[np.isnan(distances)] = np.inf
    means = np.array([math.fsum(row) / len(row) for row in distances.tolist()])
    lengths = face_length(truth, normaliser, boxes)
    return np.where(lengths > 0, means / np.where(lengths > 0, lengths, 1), np.nan)


class LandmarkMetric(Metric):
    """The normalised mean error of landmarks, its failure rate, and the area under its cumulative distribution.

    ``update`` takes ``(y_pred, y)``: points ``[B, K, 2]`` in pixels of one and the same image, the original one for the
    usual measure; ``y`` may be a dict ``{"points": [B, K, 2], "boxes": [B, 4] xyxy, "image_id": B ints}`` instead, the
    latter two if there are any. A face whose id comes again counts once. Points are kept on the device of ``y_pred``;
    the errors of the faces are computed from them in float64 and added exactly, so that the result does not depend on
    batches, order or the number of processes.

    The result is a flat dict, which ignite puts into ``engine.state.metrics``: ``NME``, the mean over the faces of
    :func:`normalised_errors`, a share of the length and not percent; ``failure_rate``, the share of the faces whose
    error is above ``limit``; ``AUC``, the area under the share of faces with an error of at most ``e``, for ``e`` from
    0 to ``limit``, divided by ``limit``. Faces of no length are left out (:meth:`left_out`); all is -1 where there is
    no face.

    Args:
        normaliser: see :func:`face_length`.
        limit: an error above it is a failure.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        DataError: in :meth:`compute`, on all processes: a true point is not finite.

    Example:
        >>> truth = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]]])
        >>> metric = LandmarkMetric("box")
        >>> metric.update((truth + torch.tensor([0.3, 0.4]), truth))
        >>> {name: round(value, 4) for name, value in metric.compute().items()}
        {'NME': 0.05, 'failure_rate': 0.0, 'AUC': 0.5}
    """

    def __init__(
        self,
        normaliser: Normaliser = "inter_ocular",
        *,
        limit: float = 0.1,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        if normaliser not in get_args(Normaliser):
            raise ValueError(f"normaliser must be one of {', '.join(get_args(Normaliser))}, got {normaliser!r}")
        if not limit > 0:
            raise ValueError(f"limit must be above 0, got {limit}")
        self._normaliser, self._limit = normaliser, limit
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    @property
    def normaliser(self) -> Normaliser:
        """The length by which errors are divided."""
        return self._normaliser

    @property
    def limit(self) -> float:
        """An error above it is a failure."""
        return self._limit

    def reset(self) -> None:
        # For each face the predicted points, the true ones, the box and the id, of NaN where there is none.
        self._rows: list[Tensor] = []
        self._faces: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None

    def update(self, output: tuple[Tensor, Tensor | Mapping[str, Any]]) -> None:
        y_pred, y = output
        mapping = y if isinstance(y, Mapping) else {"points": y}
        truth, boxes, ids = mapping["points"], mapping.get("boxes"), mapping.get("image_id")
        if len(y_pred) != len(truth):
            raise ValueError(f"one prediction for each face is needed, got {len(y_pred)} and {len(truth)}")
        self._faces = None
        if not len(truth):
            return
        if y_pred.ndim != 3 or y_pred.shape[2] != 2 or y_pred.shape != truth.shape:
            raise ValueError(f"y_pred and y must both be [B, K, 2], got {list(y_pred.shape)} and {list(truth.shape)}")
        if self._rows and self._rows[0].shape[1] != _width(y_pred.shape[1]):
            raise ValueError(f"all faces must have as many points, got {y_pred.shape[1]} after others")
        if boxes is None:
            boxes = truth.new_full((len(truth), 4), math.nan)
        if boxes.shape != (len(truth), 4):
            raise ValueError(f"boxes must be [{len(truth)}, 4], got {list(boxes.shape)}")
        numbers = torch.tensor([math.nan] * len(truth) if ids is None else [int(i) for i in ids], dtype=torch.float64)
        if len(numbers) != len(truth):
            raise ValueError(f"image_id must be one for each of {len(truth)} faces, got {len(numbers)}")
        parts = [
            part.detach().to(y_pred.device, torch.float64, non_blocking=True).reshape(len(truth), -1)
            for part in (y_pred, truth, boxes, numbers)
        ]
        self._rows.append(torch.cat(parts, dim=1))

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        errors = self.errors()
        errors = errors[~np.isnan(errors)]
        if not len(errors):
            return {"NME": -1.0, "failure_rate": -1.0, "AUC": -1.0}
        areas = np.clip(1 - errors / self._limit, 0, None)
        return {
            "NME": math.fsum(errors.tolist()) / len(errors),
            "failure_rate": int((errors > self._limit).sum()) / len(errors),
            "AUC": math.fsum(areas.tolist()) / len(errors),
        }

    def errors(self) -> NDArray[np.float64]:
        """The error of each face of all processes, float64 ``[N]``, ascending, those of no length (NaN) last.

        Call it on all processes, or on any after :meth:`compute`.
        """
        return np.sort(self.faces()[1])

    def faces(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ids of the faces of all processes, int64 ``[N]``, and their errors, float64 ``[N]``, NaN for those of no
        length; ordered by id, then by error. Faces that came without ids have -1; of those that came twice with the
        same id the first one counts.

        Call it on all processes, or on any after :meth:`compute`.
        """
        if self._faces is None:
            gathered = [arrays["rows"] for arrays in all_gather_arrays({"rows": self._own()})]
            rows = np.concatenate([part for part in gathered if part.size] or [np.empty((0, _width(0)))])
            ids = np.where(np.isnan(rows[:, -1]), -1, rows[:, -1]).astype(np.int64)
            first = np.unique(ids, return_index=True)[1]
            kept = (ids == -1) | np.isin(np.arange(len(ids)), first)
            ids, errors = ids[kept], self._errors_of(rows[kept])
            order = np.lexsort((errors, ids))
            self._faces = ids[order], errors[order]
        return self._faces

    def _errors_of(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        boxes, count = rows[:, -5:-1], (rows.shape[1] - _width(0)) // 4
        predicted, truth = (part.reshape(len(rows), count, 2) for part in np.split(rows[:, :-5], 2, axis=1))
        bad = int((~np.isfinite(truth)).any(axis=(1, 2)).sum())
        if bad:
            raise DataError(f"{bad} of {len(rows)} faces have true points that are not finite; correct them")
        given = ~np.isnan(boxes).any(axis=1)
        errors = np.empty(len(rows))
        # Without any face there is no number of points to look for the eyes in.
        for those, some in ((given, boxes), (~given, None)):
            if those.any():
                errors[those] = normalised_errors(
                    predicted[those], truth[those], self._normaliser, None if some is None else some[those]
                )
        return errors

    def left_out(self) -> int:
        """How many faces were left out, for they have no length. Call it as :meth:`errors`."""
        return int(np.isnan(self.errors()).sum())

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has seen; unlike most metrics of ignite it speaks to no other process."""
        return OrderedDict(rows=torch.from_numpy(self._own()).clone())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.reset()
        if state_dict["rows"].numel():
            self._rows = [state_dict["rows"].clone()]

    def _own(self) -> NDArray[np.float64]:
        if not self._rows:
            return np.empty((0, 0))
        # One transfer for all faces.
        device = self._rows[-1].device
        self._rows = [torch.cat([rows.to(device) for rows in self._rows])]
        return self._rows[0].cpu().numpy()


def _width(num_points: int) -> int:
    """Numbers in a row: two places of each point, a box and an id."""
    return 4 * num_points + 5
