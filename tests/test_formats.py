"""The formats: what is checked of a batch, and what a checkpoint knows to save."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.utils._pytree import tree_map

from ignite_imgtools import formats
from ignite_imgtools.formats import StepTerms


def _target(**changes: Any) -> dict[str, Any]:
    target = {
        "boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        "labels": torch.tensor([1]),
        "image_id": 7,
        "area": torch.tensor([4.0]),
        "iscrowd": torch.tensor([False]),
    }
    return {key: value for key, value in {**target, **changes}.items() if value is not None}


def test_a_detection_batch_is_accepted() -> None:
    formats.check_detection_batch([torch.zeros(3, 8, 9), torch.zeros(3, 4, 4, dtype=torch.uint8)], [_target()] * 2)
    formats.check_detection_batch([], [])


@pytest.mark.parametrize(
    ("image", "target", "message"),
    [
        (torch.zeros(1, 8, 9), _target(), r"image_id 7: an image must be \[3, H, W\], got \[1, 8, 9\]"),
        (torch.zeros(3, 8, 9, dtype=torch.int64), _target(), "uint8 or floating point, got torch.int64"),
        (torch.zeros(3, 8, 9), _target(boxes=None), "no 'boxes', only"),
        (torch.zeros(3, 8, 9), _target(image_id=None), r"image_id \(missing\)"),
        (torch.zeros(3, 8, 9), _target(boxes=torch.zeros(4)), r"floating point \[N, 4\], got torch.float32 \[4\]"),
        (torch.zeros(3, 8, 9), _target(boxes=torch.zeros(1, 4).long()), r"got torch.int64 \[1, 4\]"),
        (torch.zeros(3, 8, 9), _target(labels=torch.ones(2).long()), r"labels must be int64 \[1\]"),
        (torch.zeros(3, 8, 9), _target(labels=torch.ones(1)), "got torch.float32"),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(image: torch.Tensor, target: dict[str, Any], message: str) -> None:
    with pytest.raises(formats.DataError, match=message):
        formats.check_detection_batch([image], [target])


def test_images_and_targets_must_be_as_many() -> None:
    with pytest.raises(formats.DataError, match="got 1 and 0"):
        formats.check_detection_batch([torch.zeros(3, 8, 9)], [])


def test_uint8_images_are_scaled_and_float_images_left_alone() -> None:
    whole = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    real = torch.rand(3, 2, 2)
    scaled, same = formats.images_to_device([whole, real], "cpu")
    assert scaled.flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert torch.equal(same, real)
    assert whole.dtype == torch.uint8


def test_image_ids_of_other_batches_are_none() -> None:
    assert formats.image_ids(([torch.zeros(3, 1, 1)], [_target()])) == [7]
    assert formats.image_ids(([], [])) == []
    assert formats.image_ids((torch.zeros(2, 3, 4, 4), {"image_id": [7, 3]})) == [7, 3]
    assert formats.image_ids((torch.zeros(2, 3, 4, 4), {"keypoints": torch.zeros(2, 1, 3)})) is None
    assert formats.image_ids((torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4))) is None
    assert formats.image_ids(torch.zeros(3)) is None


def test_a_name_belongs_to_one_resumable() -> None:
    trainer = Engine(lambda engine, batch: None)
    first, second = object(), object()
    formats.register_resumable(trainer, "logger", first)
    formats.register_resumable(trainer, "logger", first)
    with pytest.raises(ValueError, match="'logger' is registered already"):
        formats.register_resumable(trainer, "logger", second)
    assert formats.resumables(trainer) == {"logger": first}


def _terms() -> StepTerms:
    terms = StepTerms.of(["a", "b"], torch.tensor([1.0, 2.0]))
    terms["batch_size"] = 4
    return terms


def _saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


_TERMS = {"loss": 3.0, "a": 1.0, "b": 2.0, "batch_size": 4}


@pytest.mark.parametrize(
    "as_dict",
    [
        dict,
        copy.copy,
        copy.deepcopy,
        StepTerms.copy,
        lambda terms: {**terms},
        lambda terms: (lambda **values: values)(**terms),
        lambda terms: pickle.loads(pickle.dumps(terms)),
        lambda terms: _saved_and_loaded({"output": terms})["output"],
        lambda terms: tree_map(lambda value: value, terms),
        lambda terms: terms | {},
        lambda terms: {} | terms,
        lambda terms: dict(terms.items()),
        lambda terms: dict(zip(terms.keys(), terms.values(), strict=True)),
        lambda terms: {name: terms.get(name) for name in terms},
        lambda terms: {name: terms[name] for name in terms},
        lambda terms: {**_TERMS, "a": terms.setdefault("a", 7.0)},
        lambda terms: {**_TERMS, "a": terms.pop("a")},
        lambda terms: json.loads(json.dumps(terms, default=torch.Tensor.item)),
        lambda terms: eval(repr(terms), {"tensor": torch.tensor}),  # noqa: S307 - what repr says of a dict
    ],
)
def test_what_a_step_returns_is_a_dict_however_it_is_read(as_dict: Callable[[StepTerms], dict[str, Any]]) -> None:
    assert isinstance(_terms(), dict)
    assert as_dict(_terms()) == _TERMS
    assert list(as_dict(_terms())) == list(_TERMS)


def test_terms_of_a_step_can_be_changed() -> None:
    terms = _terms()
    terms |= {"c": 5}
    assert (terms.terms, terms["loss"], terms.terms) == (("a", "b"), 3.0, ())
    assert (terms["c"], terms["a"]) == (5, 1.0)
    assert terms["a"] is terms["a"]
    terms = _terms()
    assert (len(terms), "b" in terms, "c" in terms) == (4, True, False)
    assert terms == _TERMS
    plain: dict[str, Any] = {**_TERMS}
    assert plain == _terms()
    terms = _terms()
    terms["b"] = 7.0
    assert (terms.terms, terms.vector) == ((), None)
    assert terms == {**_TERMS, "b": 7.0}
    terms = _terms()
    terms["loss"] = 8.0
    assert (terms.terms, terms.vector) == ((), None)
    assert terms == {**_TERMS, "loss": 8.0}
    terms = _terms()
    del terms["a"]
    assert terms.pop("b") == 2.0
    assert terms == {"loss": 3.0, "batch_size": 4}
    with pytest.raises(KeyError):
        terms["a"]
    assert list(reversed(terms)) == ["batch_size", "loss"]
    assert [terms.popitem(), terms.popitem()] == [("batch_size", 4), ("loss", 3.0)]
    for read in (terms.popitem, lambda: terms["a"]):
        with pytest.raises(KeyError):
            read()


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "loss"]])
def test_names_of_terms_must_be_as_many(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^2 elements need as many names other than 'loss', got \('a'"):
        StepTerms.of(names, torch.tensor([1.0, 2.0]))


def test_terms_that_were_first_read_in_inference_can_be_computed_with() -> None:
    terms = _terms()
    with torch.inference_mode():
        assert terms["loss"] == 3.0
    assert terms["loss"].mul_(2) == 6.0
    assert not terms["a"].is_inference()


def test_terms_of_a_step_may_be_read_by_several_threads() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(2000):
                terms = _terms()
                reads = [pool.submit(terms.__getitem__, name) for name in ("loss", "b")]
                assert terms["a"] == 1.0
                assert [read.result() for read in reads] == [3.0, 2.0]
    finally:
        sys.setswitchinterval(interval)


def test_where_an_epoch_began() -> None:
    began: list[tuple[int, int]] = []

    def attach(engine: Engine) -> Engine:
        for _ in range(2):
            formats.follow_epochs(engine)
        state: Any = engine.state
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: began.append((state.epoch, state.epoch_began_after))
        )
        return engine

    engine = attach(Engine(lambda engine, batch: None))
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: engine.terminate_epoch())
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=6), engine.terminate)
    engine.run(range(3), max_epochs=4)
    engine.run(range(3), max_epochs=4)
    assert began == [(1, 0)] * 2 + [(2, 2)] * 3 + [(3, 5)] + [(4, 6)] * 3

    began.clear()
    engine = attach(Engine(lambda engine, batch: None))

    @engine.on(Events.STARTED)
    def resume() -> None:
        engine.state.iteration, engine.state.epoch = 4, 1

    engine.run(range(3), max_epochs=3)
    assert began == [(2, 3)] * 2 + [(3, 6)] * 3
