"""Meters against torch and against plain Python sums."""

from __future__ import annotations

import copy
import io
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.utils import apply_to_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_imgtools.formats import StepTerms
from ignite_imgtools.metrics import MeterBank
from tests.distributed.spawn import run_processes


def _steps(count: int, names: str = "abc", seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {**{name: torch.randn((), generator=generator) for name in names}, "batch_size": 1 + i % 4}
        for i in range(count)
    ]


def _append(bank: MeterBank, steps: list[dict[str, Any]]) -> None:
    for step in steps:
        bank.append(step, step["batch_size"])


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    window=st.integers(1, 25),
    reads=st.sets(st.integers(0, 40)),
)
@settings(max_examples=60, deadline=None)
def test_statistics_are_those_of_torch_and_of_sequential_sums(
    values: list[float], window: int, reads: set[int]
) -> None:
    bank = MeterBank(window)
    total, count = 0.0, 0
    for i, value in enumerate(values):
        bank.append({"loss": torch.tensor(value)}, batch_size=i % 3 + 1)
        total, count = total + value * (i % 3 + 1), count + i % 3 + 1
        if i in reads:
            bank.window_statistics()

    newest = torch.tensor(values[-window:], dtype=torch.float64)
    found = bank.window_statistics()["loss"]
    assert found.median == newest.median().item()
    assert found.avg == pytest.approx(newest.mean().item(), rel=1e-12, abs=1e-9)
    assert (found.max, found.value) == (newest.max().item(), values[-1])
    assert bank.means()["loss"].total == total / count  # to the last bit, whenever it was read


def test_the_interval_is_what_came_since_it_began() -> None:
    bank = MeterBank()
    bank.append({"loss": 10.0}, 4)
    bank.start_interval()
    bank.append({"loss": 1.0}, 1)
    bank.append({"loss": 4.0}, 2)
    assert bank.means()["loss"] == (pytest.approx(49 / 7), pytest.approx(9 / 3))
    bank.start_interval()
    assert math.isnan(bank.means()["loss"].interval)


class _CopiesCounter(TorchDispatchMode):
    """Counts what would wait for a device: scalars that leave it and copies of tensors to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.stacks = self.scalars = self.unbinds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.scalars += func is torch.ops.aten._local_scalar_dense.default
        self.stacks += func is torch.ops.aten.stack.default
        self.unbinds += func is torch.ops.aten.unbind.int
        return func(*args, **(kwargs or {}))


def test_appending_computes_nothing_and_reading_stacks_once() -> None:
    bank, steps = MeterBank(), _steps(50, "abcdefg")
    with _CopiesCounter() as counter:
        _append(bank, steps)
        assert (counter.stacks, counter.scalars) == (0, 0)
        bank.window_statistics()
        bank.means()
        assert (counter.stacks, counter.scalars) == (1, 0)


def _terms(vector: torch.Tensor, **others: Any) -> StepTerms:
    terms = StepTerms.of("abc"[: len(vector)], vector)
    terms.update(others)
    return terms


def _assert_same(one: MeterBank, other: MeterBank) -> None:
    assert one.window_statistics() == other.window_statistics()
    assert one.means() == other.means()


def test_elements_of_one_vector_are_copied_together() -> None:
    together, apart = MeterBank(5), MeterBank(5)
    generator = torch.Generator().manual_seed(0)
    for i in range(12):
        step: dict[str, Any] = _terms(torch.randn(3, generator=generator), norm=torch.tensor(float(i)))
        if i == 4:  # what counts is what stands under the name
            step["a"], step["b"] = step["b"], step["a"]
        if i == 5:
            step["c"] = torch.tensor(7.0)
        if i == 6:
            step = dict(step)
        if i == 7:
            step["b"] = 3.0
        if i == 8:
            step["loss"] = torch.tensor(-1.0)
        if i == 9:
            del step["a"]
        together.append(step, i + 1)
        apart.append({name: torch.as_tensor(value).clone() for name, value in step.items()}, i + 1)
        if i in (2, 6, 8):
            _assert_same(together, apart)
    _assert_same(together, apart)
    assert list(together.means()) == ["loss", "a", "b", "c", "norm"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_loss_is_the_same_number_whether_it_was_read_or_not(dtype: torch.dtype) -> None:
    unread, read = MeterBank(), MeterBank()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        vector = torch.randn(3, generator=generator).to(dtype)
        unread.append(_terms(vector))
        step = _terms(vector)
        assert step["loss"] == (vector[0] + vector[1]) + vector[2]
        read.append(step)
    _assert_same(unread, read)


@pytest.mark.parametrize("change", [lambda step: step["loss"].mul_(10), lambda step: step["a"].mul_(10)])
def test_a_value_that_was_changed_in_place_is_metered_as_it_is(change: Callable[[Any], Any]) -> None:
    bank, step = MeterBank(), _terms(torch.tensor([1.0, 2.0]))
    change(step)
    bank.append(step)
    assert {name: mean.total for name, mean in bank.means().items()} == dict(step)
    assert 10 in dict(step).values() or 30 in dict(step).values()


def test_a_dict_may_have_a_value_called_vector() -> None:
    class Attributes(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            if name in self:
                return self[name]
            raise AttributeError(name)

    bank = MeterBank()
    bank.append(Attributes(loss=1.0, vector=2.0))
    assert {name: mean.total for name, mean in bank.means().items()} == {"loss": 1.0, "vector": 2.0}


def test_elements_that_nobody_reads_are_never_made_tensors() -> None:
    bank = MeterBank()
    with _CopiesCounter() as counter:
        for i in range(6):
            step = _terms(torch.tensor([1.0, 2.0 * i]), batch_size=4)
            step["norm"] = torch.tensor(1.0)
            bank.append(step)
        assert counter.unbinds == 0
        assert step["b"] == 10.0
        assert counter.unbinds == 1
    assert bank.means()["b"].total == 5.0
    assert bank.means()["loss"].total == 6.0


def test_steps_of_a_dict_in_all_its_forms_are_taken() -> None:
    bank, terms = MeterBank(), _terms(torch.tensor([1.0, 2.0]))
    items = apply_to_tensor(terms, torch.Tensor.item)  # makes one of the same type
    for step in (terms, items, {**terms}, copy.deepcopy(terms)):
        bank.append(step)
    assert {name: mean.total for name, mean in bank.means().items()} == {"loss": 3.0, "a": 1.0, "b": 2.0}


def test_a_dict_that_makes_up_values_is_taken_as_it_is() -> None:
    bank = MeterBank()
    second = defaultdict(float, x=1.0, z=5.0)
    bank.append(defaultdict(float, x=1.0, y=2.0))
    bank.append(second)
    assert {name: mean.total for name, mean in bank.means().items()} == {"x": 1.0, "y": 2.0, "z": 5.0}
    assert second == {"x": 1.0, "z": 5.0}


@pytest.mark.parametrize("values", [torch.tensor([1.0, 2.0]), torch.tensor([])])
def test_what_is_no_number_any_more_is_an_error_that_loses_nothing(values: torch.Tensor) -> None:
    bank = MeterBank()
    bank.append({"a": torch.tensor(1.0), "b": 3.0})
    bank.append({"a": values, "b": 4.0})
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"^a: was one number in a step, several or none in another; return one in each$"
        ):
            bank.means()
    bank.append({"a": None, "b": 5.0})
    with pytest.raises(ValueError, match=r"^a: was one number in a step, several or none in another"):
        bank.means()


@pytest.mark.parametrize("reads", [1, 7, 300])
def test_sums_of_fractional_batch_sizes_do_not_depend_on_when_they_are_read(reads: int) -> None:
    bank, whole = MeterBank(), MeterBank()
    for step in range(300):
        for one in (bank, whole):
            one.append({"loss": 0.1 * step}, 0.1 + 0.6 * step / 300)
        if step % reads == 0:
            bank.flush()
    assert bank.means() == whole.means()


@pytest.mark.parametrize("count", [1, 3])
def test_a_vector_is_stacked_as_one(count: int) -> None:
    bank = MeterBank()
    for step in range(4):
        bank.append(_terms(torch.full((count,), float(step))))
    sizes = []

    class Stacks(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.stack.default:
                sizes.append((len(args[0]), args[0][0].numel()))
            return func(*args, **(kwargs or {}))

    with Stacks():
        assert bank.window_statistics()["a"].value == 3.0
    assert sizes == [(4, count)]


def test_reading_cuda_meters_waits_once() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    bank = MeterBank()
    steps = [{"a": torch.tensor(float(i), device="cuda"), "b": torch.ones((), device="cuda").half()} for i in range(9)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in steps:
            bank.append(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bank.window_statistics()["a"].median == 4.0


def test_scalars_of_any_kind_are_metered_and_all_else_passed_over() -> None:
    bank = MeterBank()
    parameter = torch.nn.Parameter(torch.tensor(2.0))
    for _ in range(2):
        bank.append(
            {
                "graph": parameter * 2,
                "one": torch.ones(1),
                "half": torch.tensor(0.5, dtype=torch.bfloat16),
                "count": torch.tensor(16777217),
                "number": 3,
                "image": torch.zeros(3, 4, 4),
                "text": "x",
                "batch_size": 2,
            },
            2,
        )
    assert not any(value.requires_grad for value in bank._segments[0].rows[0] if isinstance(value, torch.Tensor))
    medians = {name: statistics.median for name, statistics in bank.window_statistics().items()}
    # The integer is more than float32 could hold.
    assert medians == {"graph": 4.0, "one": 1.0, "half": 0.5, "count": 16777217.0, "number": 3.0}


def test_names_may_come_and_go_and_types_change() -> None:
    bank = MeterBank(window=3)
    bank.append({"a": torch.tensor(1.0)})
    bank.append({"a": torch.tensor(2.0), "b": 5.0})
    bank.append({"b": torch.tensor(7.0), "c": 1})
    bank.append({"a": 6.0, "c": torch.tensor(3.0)})
    statistics, means = bank.window_statistics(), bank.means()
    assert {name: s.value for name, s in statistics.items()} == {"a": 6.0, "b": 7.0, "c": 3.0}
    assert {name: m.total for name, m in means.items()} == {"a": 3.0, "b": 6.0, "c": 2.0}


def test_nan_shows_in_every_statistic_but_a_step_without_images_has_no_weight() -> None:
    bank = MeterBank(window=2)
    bank.append({"loss": math.nan}, 0)
    bank.append({"loss": 2.0}, 2)
    assert bank.means()["loss"].total == 2.0
    assert all(math.isnan(number) for number in bank.window_statistics()["loss"][:3])
    bank.append({"loss": 4.0}, 2)
    assert bank.window_statistics()["loss"] == (2.0, 3.0, 4.0, 4.0)


def test_a_state_goes_on_with_the_same_bits_through_a_file() -> None:
    steps = _steps(33)
    whole, first, second = MeterBank(7), MeterBank(7), MeterBank(7)
    _append(whole, steps)
    _append(first, steps[:19])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    _append(second, steps[19:])
    assert second.window_statistics() == whole.window_statistics()
    assert second.means() == whole.means()


def test_a_state_of_more_processes_gives_the_same_means_and_another_window_fits() -> None:
    banks = [MeterBank(5), MeterBank(5)]
    for rank, bank in enumerate(banks):
        _append(bank, _steps(6, "ab" if rank else "abc", seed=rank))
    state = {"processes": [process for bank in banks for process in bank.state_dict()["processes"]]}
    both = MeterBank(3)
    both.load_state_dict(state)
    expected = MeterBank(5)
    for rank in range(2):
        _append(expected, _steps(6, "ab" if rank else "abc", seed=rank))
    assert {name: mean.total for name, mean in both.means().items()} == pytest.approx(
        {name: mean.total for name, mean in expected.means().items()}
    )
    # The window is that of the first process.
    newest = [step["a"] for step in _steps(6, "abc", seed=0)][-3:]
    assert both.window_statistics()["a"].median == torch.stack(newest).median().item()


def test_an_empty_bank_says_nothing_and_has_a_state() -> None:
    bank = MeterBank()
    assert (bank.means(), bank.window_statistics()) == ({}, {})
    bank.load_state_dict(bank.state_dict())
    bank.append({"text": "x"})
    assert bank.means() == {}


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        MeterBank(0)


def test_what_is_a_number_in_some_steps_alone_is_metered_in_these() -> None:
    bank = MeterBank()
    nothing: list[Any] = [None, "none yet", torch.zeros(3), None, None, "x"]
    for step, other in enumerate(nothing):
        bank.append({"loss": torch.tensor(1.0), "late": step if step >= 2 else other}, batch_size=2)
    assert bank.means()["late"].total == 3.5
    for step in range(6):
        bank.append(
            {"loss": torch.tensor(1.0), "early": torch.tensor(float(step)) if step < 3 else None}, batch_size=step
        )
        bank.append({"loss": 1.0, "number": step if step % 2 else nothing[step]}, batch_size=1)
    means = bank.means()
    assert (means["early"].total, means["number"].total) == ((1 + 4) / 3, 3.0)
    assert bank.window_statistics()["early"].value == 2.0
    assert means["loss"].total == 1.0

    bank = MeterBank()
    for value, weight in ((1.0, 1), (None, 5), (3.0, 3)):
        bank.append({"loss": 1.0, "a": value}, weight)
    assert bank.means()["a"].total == 2.5

    # Another name in the place of what was passed over.
    bank = MeterBank()
    for step in ({"loss": 1.0, "note": "warm-up"}, {"loss": 1.0, "accuracy": 0.5}, {"loss": 1.0, "accuracy": 0.7}):
        bank.append(step)
    assert bank.means()["accuracy"].total == pytest.approx(0.6)


def test_a_batch_size_that_is_no_number_is_refused() -> None:
    bank = MeterBank()
    bank.append({"loss": 1.0}, batch_size=2)
    bank.append({"loss": 1.0}, batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size: expected one number in each step"):
        bank.means()


def _means_of_many(counts: list[int]) -> dict[str, float]:
    bank = MeterBank()
    bank.append({f"loss_{i}": float(i + idist.get_rank()) for i in range(counts[idist.get_rank()])})
    return {name: means.total for name, means in bank.means().items()}


@pytest.mark.parametrize("counts", [[64, 64], [130, 130], [64, 65], [3, 200]])
def test_any_number_of_names_on_each_process(counts: list[int]) -> None:
    both, most = min(counts), max(counts)
    more = counts.index(most)
    expected = {f"loss_{i}": i + 0.5 if i < both else float(i + more) for i in range(most)}
    assert run_processes(_means_of_many, 2, counts) == [expected, expected]


@pytest.mark.parametrize("nothing", [None, "text"])
def test_a_term_without_a_number_in_a_whole_interval_keeps_what_it_had(nothing: Any) -> None:
    bank = MeterBank()
    for value in (1.0, 0.5, nothing, nothing):
        bank.start_interval()
        bank.append({"loss": torch.tensor(2.0), "accuracy": value})
        bank.window_statistics()
    assert bank.means()["accuracy"].total == 0.75
    assert math.isnan(bank.means()["accuracy"].interval)
    assert bank.window_statistics()["loss"].avg == 2.0


def test_a_term_that_comes_where_the_batch_size_goes_is_metered() -> None:
    bank = MeterBank()
    bank.append({"loss": 1.0, "batch_size": 2}, 2)
    bank.append({"loss": 2.0, "accuracy": 0.5})
    bank.append({"loss": 3.0, "batch_size": 2}, 2)
    assert bank.means()["accuracy"].total == 0.5
    assert bank.means()["loss"].total == (2 + 2 + 6) / 5
