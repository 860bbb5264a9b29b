"""Data in memory: splits, minibatches and fingerprints."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sparring.data import Data, batch_indices, minibatch, split, stratified
from sparring.errors import InputError


def pixels(n: int, n_classes: int = 3, shape: tuple[int, ...] = (1, 4, 5)) -> Data:
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    return Data(images, torch.arange(n) % n_classes, n_classes, "pixels")


def rows(data: Data) -> list[tuple[int, ...]]:
    return [(int(y), *x.flatten().tolist()) for x, y in zip(data.images, data.labels, strict=True)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_set_knows_its_length_and_the_shape_of_one_input() -> None:
    data = pixels(7)
    assert len(data) == 7 and data.shape == (1, 4, 5) and repr(data) == "Data(pixels: 7 x (1, 4, 5), 3 classes)"


def test_bytes_become_floats_divided_by_255() -> None:
    data = pixels(9)
    assert data.floats().dtype == torch.float32
    assert torch.equal(data.floats(), data.images.float() / 255)
    assert data.images.dtype == torch.uint8  # and the set stays as it was


def test_floats_are_the_same_in_whatever_batch_they_are_asked_for() -> None:
    data = pixels(9)
    assert torch.equal(data.floats(torch.tensor([3, 5])), data.floats()[[3, 5]])
    assert torch.equal(data.floats(slice(2, 6)), data.floats()[2:6])
    unit = Data(data.floats(), data.labels, 3, "floats")
    assert torch.equal(unit.floats(torch.tensor([[3], [5]])), data.floats(torch.tensor([[3], [5]])))


def test_labels_of_a_set_are_int64() -> None:
    data = pixels(9)
    for dtype in (torch.int32, torch.uint16, torch.uint64):
        with pytest.raises(InputError, match=r"^labels are torch\.u?int\d\d; expected int64$"):
            Data(data.images, data.labels.to(dtype), 3, "narrow")


@pytest.mark.parametrize("seed", [-1, True, 0.5])
def test_a_seed_that_is_none_splits_nothing(seed: int) -> None:
    for take in (lambda: split(pixels(9), 3, seed), lambda: stratified(pixels(9), 3, seed)):
        with pytest.raises(InputError, match="seed must be a whole number >= 0"):
            take()


def test_the_fingerprint_follows_bytes_dtype_shape_and_labels() -> None:
    data = pixels(9)
    same = Data(data.images.clone(), data.labels.clone(), 3, "another name")
    assert data.fingerprint == same.fingerprint and len(data.fingerprint) == 64
    strided = Data(data.images.transpose(2, 3).contiguous().transpose(2, 3), data.labels, 3, "strided")
    assert strided.fingerprint == data.fingerprint
    changed = [
        Data(data.images ^ 1, data.labels, 3, ""),
        Data(data.images, data.labels.flip(0), 3, ""),
        Data(data.images.flatten(1), data.labels, 3, ""),
        Data(data.floats(), data.labels, 3, ""),
        data.take(torch.arange(8)),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in changed)}) == 6


def test_take_keeps_the_order_asked_for() -> None:
    data = pixels(9)
    assert rows(data.take(torch.tensor([4, 0, 4]))) == [rows(data)[i] for i in (4, 0, 4)]


def test_to_the_same_device_changes_nothing() -> None:
    assert pixels(9).to("cpu").fingerprint == pixels(9).fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (
            torch.zeros(2, 3, dtype=torch.float64),
            torch.tensor([0, 1]),
            "expected uint8 or float32",
        ),
        (torch.zeros(2), torch.tensor([0, 1]), r"expected \(N, \.\.\.\)"),
        (
            torch.zeros(2, 3),
            torch.tensor([0, 2]),
            r"y\[1\] = 2, but there are 2 classes \(0\.\.1\)",
        ),
        (torch.zeros(2, 3), torch.tensor([0]), "1 labels, but x has 2 examples"),
        (torch.zeros(2, 3), torch.tensor([0, 1], dtype=torch.int32), "expected int64"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "the data set is empty"),
    ],
)
def test_a_set_checks_itself(images: Tensor, labels: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Data(images, labels, 2, "wrong")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_a_split_is_a_partition_in_which_every_class_has_its_share(labels: list[int], draw: st.DataObject) -> None:
    n = len(labels)
    n_validation = draw.draw(st.integers(1, n - 1))
    data = Data(torch.arange(n, dtype=torch.uint8).unsqueeze(1), torch.tensor(labels), 5, "drawn")
    training, validation = split(data, n_validation, seed=draw.draw(st.integers(0, 9)))
    assert len(validation) == n_validation
    assert sorted(rows(training) + rows(validation)) == sorted(rows(data))
    assert training.images.flatten().tolist() == sorted(training.images.flatten().tolist())
    share = validation.labels.bincount(minlength=5) - data.labels.bincount(minlength=5) * n_validation / n
    assert share.abs().max() < 1


def test_a_split_depends_on_its_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (split(pixels(60), 20, seed)[1].fingerprint for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n_validation", [0, -1, 60])
def test_a_split_that_leaves_a_part_empty_is_refused(n_validation: int) -> None:
    with pytest.raises(InputError, match=rf"n_validation must be in 1\.\.59 for 60 examples, got {n_validation}"):
        split(pixels(60), n_validation, seed=0)


def test_a_stratified_subset_is_fixed_and_has_every_class() -> None:
    data = pixels(61)
    part = stratified(data, 12)
    assert part.labels.bincount().tolist() == [4, 4, 4]
    assert part.fingerprint == stratified(data, 12).fingerprint != stratified(data, 12, seed=1).fingerprint
    assert stratified(data, 61) is data and stratified(data, 100) is data
    with pytest.raises(InputError, match="at least 1, got 0"):
        stratified(data, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 50), st.integers(2, 60), st.booleans())
def test_an_epoch_visits_examples_at_most_once_or_all_of_them(n: int, batch_size: int, drop_last: bool) -> None:
    batches = batch_indices(n, batch_size, generator(), drop_last)
    size = min(n, batch_size)
    assert batches.shape == (n // size if drop_last else -(-n // size), size)
    visited = batches.flatten().bincount(minlength=n)
    if drop_last:
        assert visited.max() == 1
    else:
        assert visited.min() >= 1 and visited.sum() - n < size
    assert all(row.unique().numel() == size for row in batches)


def test_a_batch_larger_than_the_set_is_the_whole_set() -> None:
    batches = batch_indices(5, 128, generator())
    assert batches.shape == (1, 5) and sorted(batches[0].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (8, 1), (8, 0)])
def test_a_batch_of_one_is_refused(n: int, batch_size: int) -> None:
    with pytest.raises(InputError, match=f"two examples: n is {n}, batch_size is {batch_size}"):
        batch_indices(n, batch_size, generator())


def test_the_order_is_the_generators() -> None:
    first, again, other = (batch_indices(40, 8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("as_floats", [False, True])
def test_the_minibatch_of_a_stack_is_the_stack_of_minibatches(as_floats: bool) -> None:
    data = pixels(30)
    data = Data(data.floats(), data.labels, 3, "floats") if as_floats else data
    index = torch.stack([batch_indices(30, 8, generator(seed))[0] for seed in range(3)])
    x, y = minibatch(data, index)
    assert x.shape == (3, 8, 1, 4, 5) and y.shape == (3, 8) and x.dtype == torch.float32
    for copy in range(3):
        x_one, y_one = minibatch(data, index[copy])
        assert torch.equal(x[copy], x_one) and torch.equal(y[copy], y_one)
        assert torch.equal(x_one, data.floats()[index[copy]]) and torch.equal(y_one, data.labels[index[copy]])


def test_changing_a_minibatch_leaves_the_set_as_it_was() -> None:
    data = Data(pixels(30).floats(), pixels(30).labels, 3, "floats")
    before = data.images.clone()
    minibatch(data, torch.arange(8))[0].zero_()
    assert torch.equal(data.images, before)
