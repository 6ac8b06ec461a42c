"""Heat-maps of keypoints: made of coordinates and read back into them, whole batches at once on any device.

Coordinates are those of pixels: a point at (3, 5) is at the centre of column 3 and row 5. Pixel ``(x, y)`` of a
heat-map stands for pixel ``(stride * x, stride * y)`` of the image, which is where the convolutions of stride 2 with
padding 1 have their centres, and what the weights of HRNet's authors were trained for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["flip_heatmaps", "heatmaps_to_keypoints", "keypoints_to_heatmaps"]

Refinement = Literal["none", "quarter", "dark"]

# The least value of which a logarithm is taken.
_TINY = 1e-10


def keypoints_to_heatmaps(
    keypoints: Tensor, size: tuple[int, int], *, stride: int = 4, sigma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """A Gaussian around each keypoint, its peak of 1 exactly there, between pixels as it may be.

    Args:
        keypoints: ``[B, K, 3]``: x and y in pixels of the image, and the visibility 0, 1 or 2.
        size: ``(height, width)`` of the heat-maps.
        stride: pixels of the image for one of a heat-map.
        sigma: standard deviation in pixels of the heat-map.

    Returns:
        Heat-maps, float32 ``[B, K, height, width]``, 0 where a keypoint is not annotated; and the visibility,
        float32 ``[B, K]``, 0 also where a keypoint lies farther than ``3 * sigma`` outside. Nothing waits for the
        device.
    """
    height, width = size
    x, y, visibility = keypoints.float().unbind(-1)
    x, y = x / stride, y / stride
    margin = 3 * sigma
    near = (x > -margin) & (x < width - 1 + margin) & (y > -margin) & (y < height - 1 + margin)
    visibility = visibility * near
    columns = torch.arange(width, device=keypoints.device) - x[..., None]
    rows = torch.arange(height, device=keypoints.device) - y[..., None]
    # A Gaussian is a product of one along x and one along y: height + width exponentials instead of height * width.
    across, down = (torch.exp(distance.square() / (-2 * sigma**2)) for distance in (columns, rows))
    across = across * (visibility > 0)[..., None]
    return down[..., :, None] * across[..., None, :], visibility


def heatmaps_to_keypoints(
    heatmaps: Tensor, *, stride: int = 4, refine: Refinement = "quarter", sigma: float = 2.0
) -> Tensor:
    """The place of the highest value of each heat-map, refined below a pixel.

    Args:
        heatmaps: ``[B, K, h, w]``, floating point.
        stride: pixels of the image for one of a heat-map.
        refine: ``"quarter"``: moved by a quarter of a pixel towards the higher neighbour, along x and along y, which
            leaves an error of up to a quarter of a pixel of the heat-map. ``"dark"``: to the top of the parabola that
            the logarithm of a smoothed Gaussian is (Zhang et al. 2020, "Distribution-aware coordinate
            representation"; derivatives by differences of direct neighbours). Within ``2.5 * sigma`` of the border
            smoothing draws a place inwards, by up to 0.8 of a pixel. ``"none"``: left where it is. On the border
            itself a place is refined along the border alone, or by ``"dark"`` not at all.
        sigma: of ``"dark"``: standard deviation that the heat-maps were made with, and are smoothed by.

    Returns:
        float32 ``[B, K, 3]``: x and y in pixels of the image, and the highest value. Nothing waits for the device.

    Raises:
        ValueError: ``refine`` is none of the three.
    """
    if refine not in ("none", "quarter", "dark"):
        raise ValueError(f"refine must be 'none', 'quarter' or 'dark', got {refine!r}")
    maps = heatmaps.float()
    columns, rows, scores = _peaks(maps)
    points = torch.stack((columns, rows), dim=-1).float()
    if refine == "quarter":
        points = points + _quarter_offsets(maps, columns, rows)
    elif refine == "dark":
        points = points + _dark_offsets(maps, columns, rows, sigma)
    return torch.cat((points * stride, scores[..., None]), dim=-1)


def flip_heatmaps(heatmaps: Tensor, permutation: Tensor, shift: int = 1) -> Tensor:
    """Heat-maps of a mirrored image as those of the image itself.

    The pixel at ``stride * x`` of an image of width ``W`` is at ``W - 1 - stride * x`` in its mirror image, so mirrored
    back its heat-map pixel is ``(stride - 1) / stride`` too far to the left. The shift makes most of that good.

    Args:
        heatmaps: ``[B, K, h, w]``.
        permutation: int64 ``[K]`` on the device: which keypoint takes the place of each when an image is mirrored.
        shift: pixels of the heat-map to the right; what comes in at the left repeats the border.
    """
    flipped = heatmaps.flip(-1).index_select(1, permutation)
    if shift == 0:
        return flipped
    return torch.cat((flipped[..., :1].expand(-1, -1, -1, shift), flipped[..., :-shift]), dim=-1)


def _peaks(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row of the highest value of each map, the first of several, and the value: ``[B, K]`` each."""
    # First the row, then the column in it: a maximum without its place is several times as fast to find.
    highest = maps.amax(dim=3)
    rows = highest.argmax(dim=2)
    line = maps.gather(2, rows[..., None, None].expand(-1, -1, 1, maps.shape[3]))[:, :, 0]
    return line.argmax(dim=2), rows, highest.amax(dim=2)


def _quarter_offsets(maps: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Offsets ``[B, K, 2]`` of -0.25, 0 and 0.25."""
    height, width = maps.shape[-2:]
    across = _values(maps, columns + 1, rows) - _values(maps, columns - 1, rows)
    down = _values(maps, columns, rows + 1) - _values(maps, columns, rows - 1)
    across = across.sign() * ((columns > 0) & (columns < width - 1))
    down = down.sign() * ((rows > 0) & (rows < height - 1))
    return torch.stack((across, down), dim=-1) * 0.25


def _dark_offsets(maps: Tensor, columns: Tensor, rows: Tensor, sigma: float) -> Tensor:
    """Offsets ``[B, K, 2]`` to the top of the parabola through the logarithms around a place, at most 1 each."""
    height, width = maps.shape[-2:]
    logs = _smooth_around(maps, columns, rows, sigma).clamp(min=_TINY).log()
    log = {(dx, dy): logs[..., dy + 1, dx + 1] for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
    slope_x, slope_y = (log[1, 0] - log[-1, 0]) / 2, (log[0, 1] - log[0, -1]) / 2
    xx = log[1, 0] - 2 * log[0, 0] + log[-1, 0]
    yy = log[0, 1] - 2 * log[0, 0] + log[0, -1]
    xy = (log[1, 1] - log[-1, 1] - log[1, -1] + log[-1, -1]) / 4
    determinant = xx * yy - xy * xy
    # Elsewhere the surface is no hill: a saddle or flat, and its "top" may be anywhere.
    hill = (xx < 0) & (determinant > 0)
    hill &= (columns > 0) & (columns < width - 1) & (rows > 0) & (rows < height - 1)
    divisor = torch.where(hill, determinant, 1)
    offsets = torch.stack((xy * slope_y - yy * slope_x, xy * slope_x - xx * slope_y), dim=-1) / divisor[..., None]
    return torch.where(hill[..., None], offsets.clamp(-1, 1), 0)


def _values(maps: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Values ``[B, K]`` of maps ``[B, K, h, w]``; those outside are those of the border."""
    height, width = maps.shape[-2:]
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return maps.flatten(2).gather(2, places[..., None])[..., 0]


def _smooth_around(maps: Tensor, columns: Tensor, rows: Tensor, sigma: float) -> Tensor:
    """What a place and its neighbours have in maps smoothed by a Gaussian, ``[B, K, 3, 3]``.

    Maps are 0 outside, and count as 0 where they are negative. Nothing else of a map is smoothed.
    """
    height, width = maps.shape[-2:]
    radius = max(1, round(2.5 * sigma))
    reach = torch.arange(-radius - 1, radius + 2, device=maps.device)
    x, y = columns[..., None] + reach, rows[..., None] + reach
    places = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    patches = maps.flatten(2).gather(2, places.flatten(2)).view_as(places).clamp(min=0) * inside
    # One row for each of three neighbours: the Gaussian around it, cut off at the radius.
    distances = reach - torch.arange(-1, 2, device=maps.device)[:, None]
    kernels = torch.exp(distances.square() / (-2 * sigma**2)) * (distances.abs() <= radius)
    kernels = kernels / kernels[0].sum()
    # Not by matrix products: devices round these to fewer bits when allowed to, and differences of logarithms need all.
    smoothed = (patches[:, :, None] * kernels[:, :, None]).sum(dim=3)
    return (smoothed[:, :, :, None] * kernels).sum(dim=4)


def checked_permutation(permutation: Sequence[int], device: torch.device) -> Tensor:
    """``permutation`` on ``device``, certain to be one that is undone by itself."""
    numbers = [int(number) for number in permutation]
    if sorted(numbers) != list(range(len(numbers))) or any(numbers[n] != i for i, n in enumerate(numbers)):
        raise ValueError(f"flip_permutation must exchange keypoints in pairs, got {numbers}")
    return torch.tensor(numbers, device=device)
