"""The index of an annotation file that is kept on disk is that of the file as it is, or is not used."""

import json
import os
import zipfile
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
import pytest

from ignite_imgtools.data import CocoDetection, index_cache
from ignite_imgtools.data.coco_file import read_coco
from ignite_imgtools.data.index_cache import CacheEntry, cache_folder
from tests.data.coco_folder import write_coco_folder


@pytest.fixture(autouse=True)
def _small_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(index_cache, "_SMALLEST", 1)
    monkeypatch.setenv("IGNITE_IMGTOOLS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def parses(monkeypatch):
    """Counts how often a json file is parsed."""
    calls = []
    parse = index_cache.json.loads
    monkeypatch.setattr("ignite_imgtools.data.coco_file._parse", lambda content: calls.append(1) or parse(content))
    return calls


def read(file, **options):
    return read_coco(file, file.parent.parent / "train", cache=True, **options)


def entry_of(tmp_path):
    (entry,) = (tmp_path / "cache").glob("*.npz")
    return entry


def assert_same(table, other):
    got, expected = (index_cache._arrays_of(each, "") for each in (table, other))
    assert got.keys() == expected.keys()
    for name in got:
        assert got[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(got[name], expected[name])
    assert table.categories == other.categories


def add_keypoints(content):
    content["categories"][0] |= {"keypoints": ["a", "b"], "skeleton": [[1, 2]]}
    content["annotations"][0]["keypoints"] = [1, 2, 2, 3, 4, 1]


@pytest.mark.parametrize(
    "change", [None, add_keypoints, lambda c: [a.pop("segmentation", 0) for a in c["annotations"]]]
)
@pytest.mark.parametrize("check_images", [False, True])
def test_second_reading_equals_the_first_and_parses_nothing(tmp_path, parses, change, check_images):
    file = write_coco_folder(tmp_path, change)
    first, _ = read(file, check_images=check_images)
    again, faults = read(file, check_images=check_images)
    assert len(parses) == 1
    assert faults == []
    assert_same(again, first)


def test_data_sets_use_it(tmp_path, parses):
    file = write_coco_folder(tmp_path)
    first, again = (CocoDetection(tmp_path / "train", file, masks=True) for _ in range(2))
    assert len(parses) == 1
    for index in range(len(first)):
        for (key, value), other in zip(
            first.annotations(index).items(), again.annotations(index).values(), strict=True
        ):
            np.testing.assert_array_equal(value, other, err_msg=key)
    CocoDetection(tmp_path / "train", file, cache=False)
    assert len(parses) == 2


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path):
    file = write_coco_folder(tmp_path)
    read(file)
    status = file.stat()
    file.write_text(file.read_text().replace('"dog"', '"cow"'))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    table, _ = read(file)
    assert [category.name for category in table.categories] == ["cat", "cow"]


def test_a_change_of_the_code_that_reads_is_seen(tmp_path, monkeypatch, parses):
    file = write_coco_folder(tmp_path)
    read(file)
    monkeypatch.setattr(index_cache, "_digest_of_readers", lambda: "other code")
    read(file)
    assert len(parses) == 2


def test_images_are_looked_at_nonetheless(tmp_path):
    file = write_coco_folder(tmp_path)
    read(file)
    (tmp_path / "train" / "3.jpg").write_bytes(b"")
    _, faults = read(file)
    assert ["3.jpg" in str(fault) for fault in faults] == [True]


def test_what_has_faults_or_depends_on_images_is_not_kept(tmp_path):
    for name, change in {
        "fault": lambda content: content["annotations"][0].update(category_id=99),
        "sizes": lambda content: [content["images"][0].pop(key) for key in ("width", "height")],
    }.items():
        read(write_coco_folder(tmp_path / name, change))
    assert list((tmp_path / "cache").glob("*.npz")) == []


def test_damage_anywhere_is_found_and_mended(tmp_path, parses):
    file = write_coco_folder(tmp_path, add_keypoints)
    expected, _ = read(file)
    entry = entry_of(tmp_path)
    good = entry.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(good)
        if trial % 3:
            damaged[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
        else:
            del damaged[rng.integers(len(good)) :]
        entry.write_bytes(damaged)
        table, faults = read(file)
        assert faults == []
        assert_same(table, expected)
    assert len(parses) > 40  # a few bits of a zip file mean nothing
    entry.write_bytes(good)
    parses.clear()
    read(file)
    assert parses == []


def _rewrite(entry, change):
    with np.load(entry) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    change(kept)
    with entry.open("wb") as out:
        np.savez(out, **kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.update(key=kept["key"][::-1]),
        lambda kept: kept.update(labels=kept["labels"] + 5),
        lambda kept: kept.update(starts=kept["starts"][::-1].copy()),
        lambda kept: kept.update(starts=kept["starts"] * 1000),
        lambda kept: kept.update(areas=kept["areas"][:-1]),
        lambda kept: kept.update(boxes_xywh=kept["boxes_xywh"].astype(np.float32)),
        lambda kept: kept.update(rle_starts=kept["rle_starts"] - 1),
        lambda kept: kept.update(sizes=kept["sizes"] * 0),
        lambda kept: kept.pop("names"),
    ],
)
def test_a_sound_file_of_something_else_is_not_used(tmp_path, parses, change):
    file = write_coco_folder(tmp_path)
    expected, _ = read(file)
    _rewrite(entry_of(tmp_path), change)
    table, _ = read(file)
    assert len(parses) == 2
    assert_same(table, expected)


class _Evil:
    def __reduce__(self):
        return os.mkdir, (_Evil.marker,)


def test_nothing_in_it_is_executed(tmp_path, parses):
    file = write_coco_folder(tmp_path)
    read(file)
    _Evil.marker = str(tmp_path / "executed")
    _rewrite(entry_of(tmp_path), lambda kept: kept.update(names=np.array([_Evil()], dtype=object)))
    read(file)
    assert len(parses) == 2
    assert not (tmp_path / "executed").exists()


def test_compressed_ones_that_could_grow_are_not_read(tmp_path, parses):
    file = write_coco_folder(tmp_path)
    read(file)
    entry = entry_of(tmp_path)
    with np.load(entry) as arrays:
        np.savez_compressed(tmp_path / "small.npz", **{name: arrays[name] for name in arrays.files})
    assert {info.compress_type for info in zipfile.ZipFile(tmp_path / "small.npz").infolist()} == {zipfile.ZIP_DEFLATED}
    (tmp_path / "small.npz").replace(entry)
    read(file)
    assert len(parses) == 2


@pytest.mark.parametrize("who", ["folder", "entry"])
def test_what_others_may_write_is_left_alone(tmp_path, parses, who):
    file = write_coco_folder(tmp_path)
    read(file)
    (entry_of(tmp_path) if who == "entry" else tmp_path / "cache").chmod(0o777)
    read(file)
    assert len(parses) == 2


def test_a_link_in_its_place_is_not_followed(tmp_path, parses):
    file = write_coco_folder(tmp_path)
    read(file)
    entry = entry_of(tmp_path)
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    read(file)
    assert len(parses) == 2
    assert (tmp_path / "elsewhere").read_bytes() == before
    assert not entry.is_symlink()


def test_where_it_is(monkeypatch, tmp_path, parses):
    monkeypatch.setenv("IGNITE_IMGTOOLS_CACHE", "off")
    assert cache_folder() is None
    file = write_coco_folder(tmp_path)
    read(file)
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("IGNITE_IMGTOOLS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ignite_imgtools"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ignite_imgtools"
    read(file)
    assert (tmp_path / "home" / ".cache" / "ignite_imgtools").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("IGNITE_IMGTOOLS_CACHE", str(tmp_path / "a file" / "cache"))
    assert read(write_coco_folder(tmp_path))[1] == []


def test_entries_unused_for_longest_make_room(tmp_path, monkeypatch):
    file = write_coco_folder(tmp_path)
    read(file)
    size = entry_of(tmp_path).stat().st_size
    for age in (30, 20, 10):
        old = tmp_path / "cache" / f"coco-{age}.npz"
        old.write_bytes(bytes(size))
        os.utime(old, (0, 1e9 - age))
    half_written = tmp_path / "cache" / ".tmp-left"
    half_written.write_bytes(b"")
    os.utime(half_written, (0, 1e9))
    monkeypatch.setattr(index_cache, "_MOST", 3 * size)
    file.write_text(file.read_text() + " ")
    read(file)
    left = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name for name in left if name in ("coco-10.npz", "coco-20.npz", "coco-30.npz", ".tmp-left")] == [
        "coco-10.npz"
    ]
    assert len(left) == 4  # beside the lock, the two of the file


def _read_in_a_process(file, start, parsed):
    from ignite_imgtools.data import coco_file

    parse = coco_file._parse

    def counted(content):
        with parsed.get_lock():
            parsed.value += 1
        return parse(content)

    coco_file._parse = counted
    start.wait()
    table, _ = read(file)
    assert len(table.labels) == 4


def test_of_several_processes_one_reads_and_the_others_wait(tmp_path):
    context = get_context("fork")
    start, parsed = context.Event(), context.Value("i", 0)
    file = write_coco_folder(tmp_path)
    processes = [context.Process(target=_read_in_a_process, args=(file, start, parsed)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert parsed.value == 1


def test_after_a_wait_that_brought_nothing_all_read_at_once(tmp_path, monkeypatch, parses):
    file = write_coco_folder(tmp_path)

    @contextmanager
    def waited(self):
        yield False

    monkeypatch.setattr(CacheEntry, "turn", waited)
    table, _ = read(file)
    assert len(table.labels) == 4
    assert list((tmp_path / "cache").glob("*.npz")) == []


def test_the_file_changes_between_the_look_and_the_reading(tmp_path, monkeypatch):
    file = write_coco_folder(tmp_path)
    load = CacheEntry.load

    def changed(self):
        content = json.loads(file.read_text())
        content["annotations"].pop()
        file.write_text(json.dumps(content))
        return load(self)

    monkeypatch.setattr(CacheEntry, "load", changed)
    table, _ = read(file)
    assert len(table.labels) == 3
    assert list((tmp_path / "cache").glob("*.npz")) == []
