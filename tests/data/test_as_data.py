"""What users bring: arrays, datasets, loaders, and the mistakes in them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sparring.data import Data, as_data, to_unit
from sparring.errors import InputError

X = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4


class Pairs(Dataset[Any]):
    """A map-style data set whose labels are plain numbers."""

    def __init__(self, x: Any = X, y: Any = Y) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i], int(self.y[i])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(X[0], 0), (X[1], 1)])


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


SOURCES = {
    "tensors": (X, Y),
    "a list": [X, Y],
    "arrays": (X.numpy(), Y.numpy()),
    "narrow labels": (X, Y.to(torch.uint8)),
    "read-only arrays": (read_only(X.numpy().copy()), read_only(Y.numpy().copy())),
    "big-endian arrays": (X.numpy().astype(">f4"), Y.numpy().astype(">i4")),
    "Fortran order": (np.asfortranarray(X.numpy()), Y.numpy()),
    "reversed arrays": (X.flip(0).numpy()[::-1], Y.flip(0).numpy()[::-1]),
    "double precision": (X.double(), Y),
    "labels as a list": (X, Y.tolist()),
    "a tensor data set": TensorDataset(X, Y),
    "a data set": Pairs(),
    "a data set of arrays": Pairs(X.numpy(), Y.numpy()),
    "a loader": DataLoader(Pairs(), batch_size=6),
    "unsigned labels": (X, Y.to(torch.uint16)),
    "arrays of unsigned labels": (X.numpy(), Y.numpy().astype(np.uint32)),
    "a loader of unsigned labels": DataLoader(TensorDataset(X, Y.to(torch.uint64)), batch_size=6),
    "parameters": (X.clone().requires_grad_(), Y),
    "our own": Data(X, Y, 4, "own"),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_source_gives_the_same_set(source: Any) -> None:
    data = as_data(source)
    assert data.fingerprint == Data(X, Y, 4, "").fingerprint
    assert data.n_classes == 4 and data.shape == (1, 4, 4) and not data.images.requires_grad


def test_a_set_of_ours_is_returned_as_it_is() -> None:
    data = Data(X, Y, 4, "own")
    assert as_data(data) is as_data(data, n_classes=4, shape=(1, 4, 4)) is data
    with pytest.raises(InputError, match="own has 4 classes, not 10"):
        as_data(data, n_classes=10)


def test_a_set_of_ours_is_checked_for_the_range_of_its_floats() -> None:
    for x, words in (WRONG_INPUTS[name] for name in ("standardised", "unscaled", "from -1 to 1", "NaN", "infinite")):
        with pytest.raises(InputError, match=words):
            as_data(Data(x, Y, 4, "own"))
    pixels = Data((X * 255).to(torch.uint8), Y, 4, "own")
    assert as_data(pixels) is pixels


def test_half_precision_is_kept_as_float32() -> None:
    data = as_data((X.half(), Y), n_classes=7, name="halves")
    assert data.images.dtype == torch.float32 and data.n_classes == 7 and data.name == "halves"
    assert torch.equal(data.images, X.half().float())


def test_a_shuffling_loader_is_read_once_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    data = as_data(DataLoader(Pairs(), batch_size=6, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(data) == 20 and data.labels.bincount().tolist() == [5, 5, 5, 5]


def test_a_loader_that_drops_examples_says_so() -> None:
    with pytest.warns(UserWarning, match="drop_last=True: 2 of 20 examples are lost"):
        assert len(as_data(DataLoader(Pairs(), batch_size=6, drop_last=True))) == 18
    assert len(as_data(DataLoader(Pairs(), batch_size=5, drop_last=True))) == 20


def test_bytes_are_refused_with_the_way_out_and_the_way_out_works() -> None:
    pixels = (X * 255).to(torch.uint8)
    for source in ((pixels, Y), (pixels.numpy(), Y), Pairs(pixels), DataLoader(Pairs(pixels))):
        with pytest.raises(InputError, match=r"x is uint8 \(0\.\.255\); use sparring\.data\.to_unit\(x\)"):
            as_data(source)
    assert torch.equal(as_data((to_unit(pixels), Y)).images, pixels.float() / 255)


def test_to_unit_gives_what_it_got_as_floats() -> None:
    assert to_unit(np.array([[0, 255]], dtype=np.uint8)).tolist() == [[0, 1]]
    assert isinstance(to_unit(np.zeros((1, 1), dtype=np.int64)), np.ndarray)
    assert to_unit(torch.tensor([0, 51], dtype=torch.int32)).tolist() == pytest.approx([0, 0.2])
    assert to_unit(np.zeros((1, 1), dtype=np.uint8)).dtype == np.float32
    assert to_unit(np.array([[0, 255]], dtype=np.uint16)).tolist() == [[0, 1]]
    with pytest.raises(InputError, match="x is float32; to_unit expects integers"):
        to_unit(X)
    with pytest.raises(InputError, match=r"values 0\.\.256"):
        to_unit(torch.tensor([0, 256]))


def with_values(*values: float) -> torch.Tensor:
    x = X.clone()
    x[17, 0, 0, : len(values)] = torch.tensor(values)
    return x


WRONG_INPUTS = {
    "standardised": (
        with_values(-0.42, 2.82),
        r"-0\.42\.\.2\.82.*look mean/std-normalised; put the",
    ),
    "unscaled": (with_values(0.0, 255.0), r"values 0\.\.255.*look unscaled; divide by 255"),
    "from -1 to 1": (X * 2 - 1, r"look scaled to \[-1, 1\]; use \(x \+ 1\) / 2"),
    "rounding": (with_values(0.0, 1.0001), "rounding.*clamp"),
    "wild": (with_values(-1e6, 1e6), r"outside \[0, 1\]: rescale"),
    "NaN": (
        with_values(float("nan"), 0, float("inf")),
        r"x\[17\] has 2 non-finite values.*1 of 20",
    ),
    "infinite": (with_values(float("-inf")), r"x\[17\] has 1 non-finite values"),
    "integers": (torch.zeros(20, 4, dtype=torch.int64), "x is int64; expected floating-point"),
    "booleans": (X > 0.5, "x is bool"),
    "complex": (np.zeros((20, 4), dtype=complex), "x has dtype complex128; expected numbers"),
    "objects": (np.array([[None]] * 20), "x has dtype object"),
    "text": ([["a"]] * 20, "x has dtype <U1"),
    "ragged": ([[0.0]] * 19 + [[0.0, 1.0]], "no rectangular array"),
    "a string": ("images", "x is a str; expected a tensor or array"),
    "no batch axis": (torch.rand(20), "expected a batch axis"),
    "empty": (torch.rand(0, 1, 4, 4), "the data set is empty"),
}


@pytest.mark.parametrize(("x", "words"), WRONG_INPUTS.values(), ids=WRONG_INPUTS.keys())
def test_wrong_inputs_are_refused_in_one_line(x: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        as_data((x, Y))
    assert "\n" not in str(caught.value)


WRONG_LABELS = {
    "one-hot": (torch.eye(4)[Y], r"y is one-hot \(N, 4\); pass class indices: y\.argmax\(1\)"),
    "a column": (Y.unsqueeze(1), r"y\.squeeze\(1\)"),
    "probabilities": (
        torch.full((20, 4), 0.25),
        r"y has shape \(20, 4\); expected one class index",
    ),
    "floats": (Y.float(), r"y is float32; expected integer class indices: use y\.long\(\)"),
    "booleans": (Y > 1, "y is bool"),
    "too few": (Y[:-1], "y has 19 labels, but x has 20 examples"),
    "negative": (Y - torch.eye(20, dtype=torch.int64)[4], r"y\[4\] = -1 is negative"),
    "unsigned, too large": ((Y + 7).to(torch.uint32), r"y\[3\] = 10, but there are 10 cl"),
    "unsigned, one-hot": (torch.eye(4)[Y].to(torch.uint16), r"y is one-hot \(N, 4\)"),
    "too large": (
        Y + 10 * torch.eye(20, dtype=torch.int64)[4],
        r"y\[4\] = 10, but there are 10 cl",
    ),
}


@pytest.mark.parametrize(("y", "words"), WRONG_LABELS.values(), ids=WRONG_LABELS.keys())
def test_wrong_labels_are_refused_in_one_line(y: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        as_data((X, y), n_classes=10)
    assert "\n" not in str(caught.value)


SHAPES = {
    "channels last": (
        (20, 28, 28, 1),
        r"\(N, 28, 28, 1\); expected \(N, 1, 28, 28\).*x\.permute\(0, 3, 1, 2\)",
    ),
    "no channels": ((20, 28, 28), r"\(N, 28, 28\); expected \(N, 1, 28, 28\).*x\.unsqueeze\(1\)"),
    "flat": ((20, 784), r"\(N, 784\); expected \(N, 1, 28, 28\).*x\.reshape\(-1, 1, 28, 28\)"),
    "colour": ((20, 3, 28, 28), "3 channels instead of 1"),
    "one image": ((1, 28, 28), r"batch axis is missing, use x\.unsqueeze\(0\)"),
    "other size": ((20, 1, 32, 32), r"\(N, 1, 32, 32\); expected \(N, 1, 28, 28\)$"),
}


@pytest.mark.parametrize(("shape", "words"), SHAPES.values(), ids=SHAPES.keys())
def test_a_wrong_shape_is_refused_with_the_way_to_the_right_one(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_data((torch.rand(shape), torch.arange(shape[0]) % 2), shape=(1, 28, 28))


def test_constant_data_and_a_single_class_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="x is constant: every value is 0"):
        as_data((torch.zeros(20, 3), Y))
    with pytest.warns(UserWarning, match="single class: all 20 labels are 3"):
        as_data((X, torch.full((20,), 3)))
    with warnings.catch_warnings(), pytest.raises(InputError, match="all labels are 0"):
        warnings.simplefilter("ignore")
        as_data((X, torch.zeros(20, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Stream(), "wrap it in a DataLoader"),
        (3, "cannot read data from int"),
        (DataLoader([{"x": X[0], "y": 0}]), r"each batch must be a pair \(x, y\), got dict"),
        (Pairs([object()]), "x is a object; expected a tensor or array"),
    ],
)
def test_what_gives_no_pairs_is_refused(source: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_data(source)


def test_items_of_different_shapes_and_empty_data_sets_are_refused() -> None:
    with pytest.raises(InputError, match=r"item 1 has inputs of shape \(3,\); expected \(2,\)"):
        as_data(Pairs([torch.rand(2), torch.rand(3)], [0, 1]))
    with pytest.raises(InputError, match="the data set is empty"):
        as_data(Pairs([], []))
