import logging

import numpy as np
import pytest

from ignite_imgtools.data.class_list import checked_class_names, count_classes, find_class_names
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, photo, save


def test_lists_of_names(tmp_path):
    (tmp_path / "a").mkdir()
    assert find_class_names(tmp_path / "a", tmp_path) is None
    (tmp_path / "class_names.txt").write_bytes("\ufeff__ignore__\r\n_background_\r\npotted plant\r\n\r\n".encode())
    assert find_class_names(tmp_path / "a", tmp_path) == ("_background_", "potted plant")
    (tmp_path / "a" / "classes.txt").write_text("x\ny")
    assert find_class_names(tmp_path / "a", tmp_path) == ("x", "y")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "must be different and not empty, got '' for class 1; correct the list"),
        (b"a\nb\na\n", "must be different and not empty, got 'a' for class 2"),
        (b"a\n", "must be 2 to 255 names, the background's at 0, got 1"),
        (b"", "got 1"),
        (b"".join(b"%d\n" % number for number in range(256)), "got 256"),
        (b"\xff\xfe", "expected UTF-8 text"),
    ],
)
def test_bad_lists(tmp_path, content, message):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        find_class_names(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/classes.txt: ")


def test_names_that_are_one_string():
    with pytest.raises(ValueError, match="got 'background'"):
        checked_class_names("background")


def test_classes_are_counted(tmp_path, caplog):
    save(tmp_path / "train" / "a.png", labels(0, [0, 1, 255]))
    save(tmp_path / "train" / "b.png", labels(0, [0, 3]), "P")
    save(tmp_path / "train" / "c.png", photo(0))  # colours: a fault of that file, told elsewhere
    save(tmp_path / "val" / "a.png", labels(0, [4, 11]))
    with caplog.at_level(logging.INFO, "ignite_imgtools"):
        names = count_classes([tmp_path / "train", tmp_path / "val"], ignored=[11])
    assert names == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert "decoded 3 masks to count their classes; classes.txt, a name in a line, saves that" in caplog.text
    save(tmp_path / "colours" / "b.png", photo(0))
    with pytest.raises(DataError, match=r"b.png: class numbers: expected a palette or a grey image"):
        count_classes([tmp_path / "colours"])


@pytest.mark.parametrize("values", [[0, 255], [0], [255], [0, 60, 128, 200], [0, 38, 75, 113]])
def test_numbers_that_count_nothing_are_refused(tmp_path, values):
    """Black and white, or the brightness of a palette's colours, are taken for class numbers all too easily."""
    save(tmp_path / "a.png", labels(0, values))
    with pytest.raises(
        DataError, match=r"class numbers: expected 0, 1, 2, \.\.\., and 255 where ignored, got "
    ) as caught:
        count_classes([tmp_path])
    assert f"got {', '.join(map(str, values))}; write class numbers into the masks, or list" in str(caught.value)


def test_nothing_to_count(tmp_path):
    with pytest.raises(DataError, match="no masks found; correct the path"):
        count_classes([tmp_path])
    with pytest.raises(DataError, match="none: folder of masks: expected a folder, got No such file"):
        count_classes([tmp_path / "none"])
    save(tmp_path / "a.png", np.full((2, 2), 1, dtype=np.uint8))
    assert count_classes([tmp_path]) == ("class_0", "class_1")
