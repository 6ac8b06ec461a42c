"""The cost of reading keypoints out of heat-maps, for a batch at once and by a loop over its joints, in one run.

``quarter``: 32 persons with 17 heat-maps of 64 x 48, arg-max and a quarter of a pixel towards the higher neighbour, on
to places in the photographs. The loop is the tutorials' way: arg-max of the batch, then for each joint of each person
four values of its heat-map are looked at one by one, and the points of each person mapped by its own matrix. ``dark``:
the same with the refinement of DARK, beside a loop that smooths one heat-map at a time and looks at nine values.

The ways take turns, so that a busy machine troubles all of them alike; times are medians of the CPU seconds of the
process. All must give the same places, or nothing is printed. Measure with one thread where other work runs:

    python benchmarks/pose_decoding.py --threads 1 --rounds 9
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ignite_imgtools.engines import heatmaps_to_keypoints, keypoints_to_heatmaps

Way = Callable[[], Tensor]

_STRIDE, _SIGMA = 4, 2.0


def create_batch(persons: int, joints: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Noisy heat-maps ``[B, K, h, w]`` and the maps from crops to photographs, float64 ``[B, 2, 3]``."""
    torch.manual_seed(0)
    height, width = size
    places = torch.rand(persons, joints, 2) * torch.tensor([width - 1.0, height - 1.0]) * _STRIDE
    keypoints = torch.cat((places, torch.ones(persons, joints, 1)), dim=-1)
    heatmaps, _ = keypoints_to_heatmaps(keypoints, size, stride=_STRIDE, sigma=_SIGMA)
    return heatmaps + 0.02 * torch.randn_like(heatmaps), torch.rand(persons, 2, 3, dtype=torch.float64) * 3


def at_once(heatmaps: Tensor, to_image: Tensor, refine: str) -> Tensor:
    """Places ``[B, K, 2]`` in photographs, as an evaluation step finds them."""
    keypoints = heatmaps_to_keypoints(heatmaps, stride=_STRIDE, refine=refine, sigma=_SIGMA)  # type: ignore[arg-type]
    return keypoints[..., :2].double() @ to_image[:, :, :2].mT + to_image[:, None, :, 2]


def one_by_one(heatmaps: Tensor, to_image: Tensor, offset: Callable[[Tensor, int, int], tuple[float, float]]) -> Tensor:
    """The same by a loop; ``offset`` looks at one heat-map around a place that is not on its border."""
    persons, joints, height, width = heatmaps.shape
    places = heatmaps.flatten(2).argmax(dim=2)
    points = torch.stack((places % width, places.div(width, rounding_mode="floor")), dim=-1).float()
    for person in range(persons):
        for joint in range(joints):
            x, y = int(points[person, joint, 0]), int(points[person, joint, 1])
            if 0 < x < width - 1 and 0 < y < height - 1:
                dx, dy = offset(heatmaps[person, joint], x, y)
                points[person, joint] += torch.tensor([dx, dy])
    result = [points[i].double() * _STRIDE @ to_image[i, :, :2].T + to_image[i, :, 2] for i in range(persons)]
    return torch.stack(result)


def quarter_offset(heatmap: Tensor, x: int, y: int) -> tuple[float, float]:
    """A quarter of a pixel towards the higher neighbour."""
    across = torch.sign(heatmap[y, x + 1] - heatmap[y, x - 1])
    down = torch.sign(heatmap[y + 1, x] - heatmap[y - 1, x])
    return 0.25 * across.item(), 0.25 * down.item()


def dark_offset(heatmap: Tensor, x: int, y: int) -> tuple[float, float]:
    """To the top of the parabola through the logarithms of the smoothed heat-map."""
    radius = round(2.5 * _SIGMA)
    kernel = torch.exp(torch.arange(-radius, radius + 1).square() / (-2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    plane = functional.conv2d(heatmap.clamp(min=0)[None, None], kernel.view(1, 1, 1, -1), padding=(0, radius))
    plane = functional.conv2d(plane, kernel.view(1, 1, -1, 1), padding=(radius, 0))[0, 0]
    log = plane[y - 1 : y + 2, x - 1 : x + 2].clamp(min=1e-10).log()
    slope = torch.stack([log[1, 2] - log[1, 0], log[2, 1] - log[0, 1]]) / 2
    xx, yy = log[1, 2] - 2 * log[1, 1] + log[1, 0], log[2, 1] - 2 * log[1, 1] + log[0, 1]
    xy = (log[2, 2] - log[2, 0] - log[0, 2] + log[0, 0]) / 4
    determinant = xx * yy - xy * xy
    if xx >= 0 or determinant <= 0:
        return 0.0, 0.0
    offset = torch.stack([xy * slope[1] - yy * slope[0], xy * slope[0] - xx * slope[1]]) / determinant
    dx, dy = offset.clamp(-1, 1).tolist()
    return dx, dy


def medians(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Seconds of each way, after a round that warms up and compares the results with the first's."""
    expected = next(iter(ways.values()))()
    for way in ways.values():
        torch.testing.assert_close(way(), expected, rtol=0, atol=1e-3)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=32)
    parser.add_argument("--joints", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    heatmaps, to_image = create_batch(arguments.persons, arguments.joints, (64, 48))
    # Points on the border are refined by one of the ways alone: there the loop has no neighbours to look at.
    heatmaps[..., [0, -1], :] = heatmaps[..., :, [0, -1]] = 0
    print(f"{arguments.persons} persons, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    for refine, offset in (("quarter", quarter_offset), ("dark", dark_offset)):
        seconds = medians(
            {
                "loop": lambda offset=offset: one_by_one(heatmaps, to_image, offset),  # type: ignore[misc]
                "at once": lambda refine=refine: at_once(heatmaps, to_image, refine),  # type: ignore[misc]
            },
            arguments.rounds,
        )
        for name, value in seconds.items():
            print(f"{refine:8} {name:8} {value * 1e3:9.2f} ms  ratio {value / seconds['loop']:6.3f}")


if __name__ == "__main__":
    main()
