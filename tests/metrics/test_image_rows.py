from __future__ import annotations

import pytest
import torch

from ignite_imgtools.metrics.image_rows import ImageRows


def test_rows_in_order_before_and_after_they_are_read():
    rows = ImageRows(2)
    assert rows.gather().shape == (0, 2)
    rows.add(torch.tensor([1, 2]))
    assert rows.gather().tolist() == [[1, 2]]
    rows.add(torch.tensor([3, 2**40]))
    state = rows.state_dict()
    rows.add(torch.tensor([5, 6]))
    assert rows.gather().tolist() == [[1, 2], [3, 2**40], [5, 6]]
    rows.load_state_dict(state)
    rows.add(torch.tensor([7, 8]))
    assert rows.gather().tolist() == [[1, 2], [3, 2**40], [7, 8]]
    assert state["rows"].tolist() == [[1, 2], [3, 2**40]]


def test_rows_of_another_width():
    with pytest.raises(ValueError, match=r"the state has rows of \[3\] integers, the metric of \[2\]"):
        ImageRows(2).load_state_dict(ImageRows(3).state_dict())
