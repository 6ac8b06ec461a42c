from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools.data import FaceLandmarks, collate_landmarks, create_loader, mean_face, open_landmark_data
from ignite_imgtools.data.landmark_parts import CsvPart, WflwPart
from ignite_imgtools.data.transforms import landmark_eval, landmark_train
from ignite_imgtools.formats import DataError
from tests.data.landmark_folders import face, save_image, write_csv, write_pts, write_wflw


def _points(dataset: Any) -> list[list[list[float]]]:
    return [dataset[index][1]["points"].tolist() for index in range(len(dataset))]


def test_wflw(tmp_path: Path) -> None:
    write_wflw(tmp_path / "inner", {"train": ["a/1.png", "a/1.png", "b 2.png"], "test": ["c.png"]})
    train, val = open_landmark_data(tmp_path)
    assert isinstance(train, FaceLandmarks)
    assert isinstance(val, FaceLandmarks)
    assert train.file_names == ["a/1.png", "a/1.png", "b 2.png"]
    assert _points(train) == [face(number, 98).tolist() for number in range(3)]
    assert _points(val) == [face(3, 98).tolist()]
    image, target = train[1]
    assert (image.shape, image.dtype) == ((3, 50, 60), torch.uint8)
    assert target["box"].tolist() == [1, 1, 40, 42]
    assert (target["image_id"], train.image_size(1), train.num_points) == (1, (50, 60), 98)
    assert train.image_path(2) == tmp_path / "inner" / "WFLW_images" / "b 2.png"
    assert train.flip_permutation is not None


def test_one_list_of_wflw_is_split_by_image(tmp_path: Path) -> None:
    write_wflw(tmp_path, {"test": ["a.png", "b.png", "a.png", "c.png", "a.png", "d.png"]})
    for seed in range(4):
        parts: Any = open_landmark_data(tmp_path, val_fraction=0.5, seed=seed)
        names = [{part.dataset.file_names[index] for index in part.indices} for part in parts]
        assert not names[0] & names[1]
        assert sorted([*parts[0].indices, *parts[1].indices]) == list(range(6))
        assert len(names[1]) == 2


def test_pts_in_several_folders(tmp_path: Path) -> None:
    write_pts(tmp_path, ["afw/1", "helen/2", "helen/3", "4", "afw/deep/5"])
    (tmp_path / "afw" / "README.txt").write_text("no points")
    parts: Any = open_landmark_data(tmp_path, val_fraction=0.4, seed=3)
    assert [len(part) for part in parts] == [3, 2]
    again: Any = open_landmark_data(tmp_path, "pts", val_fraction=0.4, seed=3)
    assert [part.indices for part in parts] == [part.indices for part in again]
    names = parts[0].dataset.file_names
    assert names == sorted(["4.png", "afw/1.png", "afw/deep/5.png", "helen/2.png", "helen/3.png"])
    points = {name: parts[0].dataset.table.points[index] for index, name in enumerate(names)}
    assert np.allclose(points["helen/3.png"], face(2))  # counted from 0, though the file counts from 1
    # The box just holds the points' pixels' middles, counted from the edge of the first one.
    box = parts[0].dataset.face(names.index("4.png"))["box"]
    low, high = face(3).min(axis=0) + 0.5, face(3).max(axis=0) + 0.5
    assert box.tolist() == [*low, *high]


def test_the_parts_of_300w_are_taken_as_they_are(tmp_path: Path) -> None:
    write_pts(tmp_path, ["afw/1", "helen/trainset/2", "helen/testset/3", "ibug/4", "lfpw/trainset/5", "lfpw/testset/6"])
    train, val = open_landmark_data(tmp_path)
    assert isinstance(train, FaceLandmarks)
    assert isinstance(val, FaceLandmarks)
    assert train.file_names == ["afw/1.png", "helen/trainset/2.png", "lfpw/trainset/5.png"]
    assert val.file_names == ["helen/testset/3.png", "ibug/4.png", "lfpw/testset/6.png"]


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        ({"faces/faces.csv": ["a.png", "b.png", "c.png"]}, [2, 1]),
        ({"train/x.csv": ["a.png", "b.png"], "test/y.csv": ["c.png"]}, [2, 1]),
        ({"set/train/x.csv": ["a.png"], "set/val/x.csv": ["c.png", "d.png", "e.png"]}, [1, 3]),
        ({"training.csv": ["i/a.png"], "my_val.csv": ["i/b.png", "i/c.png"]}, [1, 2]),
    ],
)
def test_csv_of_points(files: dict[str, list[str]], sizes: list[int], tmp_path: Path) -> None:
    number = 0
    for name, faces in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_csv(tmp_path / name, faces, count=5, first=number)
        number += len(faces)
    train, val = open_landmark_data(tmp_path, val_fraction=0.3)
    assert [len(train), len(val)] == sizes  # type: ignore[arg-type]
    assert sorted(_points(train) + _points(val)) == sorted(face(i, 5).tolist() for i in range(number))


def test_parts_have_as_many_points(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 6)):
        (tmp_path / part).mkdir()
        write_csv(tmp_path / part / "faces.csv", ["a.png"], count=count)
    with pytest.raises(
        DataError, match=r"the first of 1 faults is .*val.faces\.csv: line 2: points: expected 5, got 6; complete"
    ):
        open_landmark_data(tmp_path)


def test_what_is_bad_is_left_out_if_asked(tmp_path: Path) -> None:
    write_csv(tmp_path / "faces.csv", ["a.png", "b.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"b\.png: .* the image file is empty.*, or leave it out with --on-bad-sample skip"
    ):
        FaceLandmarks(CsvPart(tmp_path / "faces.csv"))
    dataset = FaceLandmarks(CsvPart(tmp_path / "faces.csv"), on_bad_sample="skip")
    assert dataset.file_names == ["a.png", "c.png"]
    assert len(dataset.faults) == 1


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set found; no WFLW_images .*; no files \.pts .*; no csv of points"):
        open_landmark_data(tmp_path)
    with pytest.raises(ValueError, match="data_format must be one of wflw, pts, points_csv, got 'coco'"):
        open_landmark_data(tmp_path, "coco")
    write_csv(tmp_path / "one.csv", ["a.png"])
    with pytest.raises(DataError, match=r"one\.csv: faces: expected those of 2 images or more to hold some out, got 1"):
        open_landmark_data(tmp_path)
    write_csv(tmp_path / "two.csv", ["b.png"])
    with pytest.raises(DataError, match=r"several csv: one\.csv, two\.csv; leave one of them there, or one \*train\*"):
        open_landmark_data(tmp_path)
    write_pts(tmp_path, ["a"])
    write_csv(tmp_path / "train.csv", ["a.png"])
    write_csv(tmp_path / "val.csv", ["b.png"])
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="holds data sets in formats pts and points_csv; choose one by its format"):
        open_landmark_data(tmp_path)


def test_a_link_out_of_the_folder_is_no_sample(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    save_image(outside)
    write_csv(tmp_path / "faces.csv", ["a.png", "b.png"])
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"line 2: file name 'a\.png' follows a link out of"):
        FaceLandmarks(CsvPart(tmp_path / "faces.csv"))
    text = (tmp_path / "faces.csv").read_text()
    (tmp_path / "faces.csv").write_text(text.replace("a.png", "../a.png"))
    with pytest.raises(DataError, match=r"line 2: file name '\.\./a\.png' goes up out of"):
        FaceLandmarks(CsvPart(tmp_path / "faces.csv"))


def test_batches(tmp_path: Path) -> None:
    write_wflw(tmp_path, {"train": ["a.png", "b.png", "c.png"]})
    part = WflwPart(tmp_path / "WFLW_images", next((tmp_path / "WFLW_annotations").rglob("*.txt")))
    dataset = FaceLandmarks(part, transforms=landmark_eval(32))
    (images, targets), (_, others) = create_loader(dataset, 2, collate_fn=collate_landmarks)
    assert (images.shape, images.dtype) == ((2, 3, 32, 32), torch.uint8)
    assert {name: tuple(value.shape) for name, value in targets.items() if name != "image_id"} == {
        "points": (2, 98, 2),
        "image_points": (2, 98, 2),
        "boxes": (2, 4),
        "to_image": (2, 2, 3),
    }
    assert targets["to_image"].dtype == torch.float64
    assert targets["boxes"][1].tolist() == [1, 1, 40, 42]
    assert (targets["image_id"], others["image_id"]) == ([0, 1], [2])
    assert collate_landmarks([]) == ([], [])
    small = dataset[0]
    dataset.transforms = landmark_eval(48)
    with pytest.raises(ValueError, match=r"one size \(height x width\), got 32 x 32, 48 x 48: cut them out by"):
        collate_landmarks([small, dataset[0]])
    dataset.transforms = None
    with pytest.raises(ValueError, match="got 50 x 60: cut them out by"):
        collate_landmarks([dataset[0]])


def test_the_mean_face_is_the_mean_of_what_is_cut_out(tmp_path: Path) -> None:
    write_csv(tmp_path / "faces.csv", [f"{number}.png" for number in range(7)])
    train, val = open_landmark_data(
        tmp_path, train_transforms=landmark_eval(40, padding=1.1), val_transforms=landmark_eval(40, padding=1.1)
    )
    for part in (train, val):
        _, targets = collate_landmarks([part[index] for index in range(len(part))])  # type: ignore[arg-type]
        expected = (targets["points"] + 0.5).mean(dim=0) / 40
        torch.testing.assert_close(mean_face(part, padding=1.1), expected, rtol=0, atol=1e-5)
    with pytest.raises(TypeError, match="mean_face needs FaceLandmarks or a subset of one, got list"):
        mean_face([])  # type: ignore[arg-type]


def test_augmentation_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    write_csv(tmp_path / "faces.csv", [f"{number}.png" for number in range(5)], count=68)
    dataset = FaceLandmarks(CsvPart(tmp_path / "faces.csv"))
    dataset.transforms = landmark_train(32, flip_permutation=dataset.flip_permutation)

    def samples(batch_size: int, workers: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        loader = create_loader(
            dataset, batch_size, shuffle=True, seed=4, num_workers=workers, collate_fn=collate_landmarks
        )
        return {
            image_id: (image, points)
            for images, targets in loader
            for image_id, image, points in zip(targets["image_id"], images, targets["points"], strict=True)
        }

    one, other = samples(5, 0), samples(2, 1)
    assert one.keys() == other.keys() == set(range(5))
    for index in range(5):
        assert all(torch.equal(a, b) for a, b in zip(one[index], other[index], strict=True))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sizes", "points"),
    [("ibug68_pts", (48, 12), 68), ("wflw_98", (4, 1), 98), ("faces_68_csv", (37, 9), 68)],
)
def test_real_faces(name: str, sizes: tuple[int, int], points: int, real_data: Path) -> None:
    parts: Any = open_landmark_data(real_data / name, val_transforms=landmark_eval(64))
    assert tuple(map(len, parts)) == sizes
    _, targets = collate_landmarks([parts[1][index] for index in range(len(parts[1]))])
    assert targets["points"].shape == (sizes[1], points, 2)
    # Cut out by their boxes, faces fill four fifths of the square.
    extent = targets["points"].amax(dim=1) - targets["points"].amin(dim=1)
    assert ((extent.amax(dim=1) > 46) & (extent.amax(dim=1) < 57)).all()
