"""A data set in memory, its splits and its minibatches, taken by indexing one tensor.

Letters: N examples, S copies of a network, B batch. Pixels are stored as they came, uint8 (0..255) or float32
(0..1), once; they become float32 in [0, 1] one batch at a time.
"""

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sparring.data.checks import check_inputs, check_labels, check_range, check_shape, signed
from sparring.errors import InputError
from sparring.randomness import check_seed


@dataclass(frozen=True, eq=False)
class Data:
    """N labelled inputs: `images` (N, *shape), uint8 or float32 in [0, 1]; `labels` (N,), int64 in
    0..n_classes-1.

    Raises InputError where that does not hold. The range of float images is checked by
    `as_data`, not here. The tensors are shared, not copied: leave them as they are.
    """

    images: Tensor
    labels: Tensor
    n_classes: int
    name: str

    def __post_init__(self) -> None:
        if self.images.dtype not in (torch.uint8, torch.float32):
            raise InputError(f"images are {self.images.dtype}; expected uint8 or float32 (see sparring.data.as_data)")
        if self.images.ndim < 2:
            raise InputError(f"images have shape {tuple(self.images.shape)}; expected (N, ...)")
        check_labels(signed(self.labels), len(self.images), self.n_classes)
        if self.labels.dtype != torch.int64:
            raise InputError(f"labels are {self.labels.dtype}; expected int64")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Data({self.name}: {len(self)} x {self.shape}, {self.n_classes} classes)"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (1, 28, 28) for MNIST."""
        return tuple(self.images.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over dtype, shape and bytes of images and labels: equal on every device."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """Images as float32 in [0, 1], (..., *shape) for an index of shape (...); all of them without one.

        Float images are returned as stored; without an index, or with a slice, they share memory with the
        set.
        """
        if isinstance(index, Tensor):  # faster than images[index], whatever the number of axes
            rows = self.images.index_select(0, index.flatten().to(self.images.device))
            chosen = rows.view(*index.shape, *self.shape)
        else:
            chosen = self.images if index is None else self.images[index]
        return chosen.to(torch.float32).div_(255) if chosen.dtype == torch.uint8 else chosen

    def take(self, indices: Tensor) -> "Data":
        """The examples with these indices, (M,), in this order, as a set of the same name and classes."""
        indices = indices.to(self.images.device)
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "Data":
        """The same set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def as_data(
    source: Any, *, n_classes: int | None = None, shape: Sequence[int] | None = None, name: str = "data"
) -> Data:
    """A `Data` from what users have: a Data, a pair (x, y) of arrays or tensors, a map-style Dataset, a
    DataLoader.

    x is floating point in [0, 1], of any precision, and is kept as float32; y are integer class indices.
    Datasets and loaders are read once, so that random augmentation is frozen as it came; no global random
    state changes. `n_classes` is the largest label plus one unless given; `shape`, if given, is what one
    input must have. Raises InputError in one line, with the likely mistake; warns of constant data or a
    single class.
    """
    if isinstance(source, Data):
        if n_classes is not None and n_classes != source.n_classes:
            raise InputError(f"{source.name} has {source.n_classes} classes, not {n_classes}")
        if shape is not None:
            check_shape(source.images, shape)
        if source.images.is_floating_point():
            check_range(source.images)
        return source
    x, y = _read(source)
    y = signed(y)
    if shape is not None:
        check_shape(x, shape)
    check_inputs(x)
    check_labels(y, len(x), n_classes)
    if int(y.min()) == int(y.max()) and len(y) > 1:
        warnings.warn(f"y has a single class: all {len(y)} labels are {int(y[0])}", stacklevel=2)
    n_classes = int(y.max()) + 1 if n_classes is None else n_classes
    if n_classes < 2:
        raise InputError("all labels are 0: a classifier needs two classes; pass n_classes if others exist")
    return Data(x.to(torch.float32), y.to(x.device, torch.int64), n_classes, name)


@overload
def to_unit(x: Tensor) -> Tensor: ...
@overload
def to_unit(x: NDArray[Any]) -> NDArray[np.float32]: ...
def to_unit(x: Tensor | NDArray[Any]) -> Tensor | NDArray[np.float32]:
    """Integer pixels 0..255 as float32 in [0, 1], divided by 255; a tensor gives a tensor, an array an array.

    Raises InputError for values that are no integers, or lie outside 0..255.
    """
    if isinstance(x, np.ndarray):
        return to_unit(_tensor(x, "x")).numpy()
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise InputError(f"x is {str(x.dtype).removeprefix('torch.')}; to_unit expects integers in 0..255")
    x = signed(x)
    if x.numel() and (int(x.min()) < 0 or int(x.max()) > 255):
        raise InputError(f"x has values {int(x.min())}..{int(x.max())}; to_unit expects integers in 0..255")
    return x.to(torch.float32).div_(255)


def split(data: Data, n_validation: int, seed: int) -> tuple[Data, Data]:
    """(training, validation): `n_validation` examples set aside, each class by its share, order kept."""
    if not 1 <= n_validation < len(data):
        raise InputError(f"n_validation must be in 1..{len(data) - 1} for {len(data)} examples, got {n_validation}")
    chosen = stratified_mask(data, n_validation, check_seed(seed))
    return data.take((~chosen).nonzero().squeeze(1)), data.take(chosen.nonzero().squeeze(1))


def stratified(data: Data, n: int, seed: int = 0) -> Data:
    """A fixed subset of n examples, each class by its share, in the set's order; at most the set itself."""
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    seed = check_seed(seed)
    return data if n >= len(data) else data.take(stratified_mask(data, n, seed).nonzero().squeeze(1))


def batch_indices(n: int, batch_size: int, generator: torch.Generator, drop_last: bool = True) -> Tensor:
    """One epoch's order over n examples: indices of shape (steps, batch_size), each row a minibatch.

    The remainder of less than a batch is dropped; with `drop_last=False` it becomes a batch too, filled up
    from the beginning of the same order. When n < batch_size the batch is the whole set, (1, n). Raises
    InputError for a batch of one, in which batch statistics do not exist.
    """
    size = min(n, batch_size)
    if size < 2:
        raise InputError(f"a training batch needs two examples: n is {n}, batch_size is {batch_size}")
    order = torch.randperm(n, generator=generator, device=generator.device)
    steps = n // size
    if not drop_last and n % size:
        order = torch.cat((order, order[: size - n % size]))
        steps += 1
    return order[: steps * size].view(steps, size)


def minibatch(data: Data, index: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) at indices (B,) or (S, B): x (..., *shape), float32 in [0, 1], and y (...), where the set is."""
    return data.floats(index), data.labels[index.to(data.labels.device)]


def stratified_mask(data: Data, n: int, seed: int) -> Tensor:
    """True for n examples, on the CPU: random within each class, class sizes by largest remainder."""
    labels, total = data.labels.cpu(), len(data)
    counts = labels.bincount(minlength=data.n_classes)
    quota, remainder = counts * n // total, counts * n % total
    quota[remainder.argsort(descending=True, stable=True)[: n - int(quota.sum())]] += 1
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # class after class, random within each
    rank = torch.arange(total) - (counts.cumsum(0) - counts)[labels[order]]
    mask = torch.zeros(total, dtype=torch.bool)
    mask[order[rank < quota[labels[order]]]] = True
    return mask


def _read(source: Any) -> tuple[Tensor, Tensor]:
    if isinstance(source, DataLoader):
        return _read_loader(source)
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, tuple | list) and len(source) == 2:
        return _tensor(source[0], "x"), _tensor(source[1], "y")
    if isinstance(source, IterableDataset):
        raise InputError("an IterableDataset has no fixed order; wrap it in a DataLoader")
    if isinstance(source, Dataset) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        pairs = [_pair(source[i], "item") for i in range(len(source))]
        return _join(((x.unsqueeze(0), y.reshape(1, *y.shape)) for x, y in pairs), "item")
    raise InputError(
        f"cannot read data from {type(source).__name__}; expected (x, y), a Dataset, a DataLoader or a Data"
    )


def _read_loader(loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):  # a loader draws a base seed from the global generator
        x, y = _join((_pair(batch, "batch") for batch in loader), "batch")
    sampler: Any = loader.sampler
    if loader.drop_last and hasattr(sampler, "__len__") and len(sampler) > len(x):
        lost = f"{len(sampler) - len(x)} of {len(sampler)} examples are lost"
        warnings.warn(f"the DataLoader has drop_last=True: {lost}", stacklevel=4)
    return x, y


def _join(pairs: Iterable[tuple[Tensor, Tensor]], what: str) -> tuple[Tensor, Tensor]:
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    for i, (x, y) in enumerate(pairs):
        if xs and x.shape[1:] != xs[0].shape[1:]:
            raise InputError(f"{what} {i} has inputs of shape {tuple(x.shape[1:])}; expected {tuple(xs[0].shape[1:])}")
        xs.append(x)
        ys.append(y)
    if not xs:
        raise InputError("the data set is empty")
    return torch.cat(xs), torch.cat(ys)


def _pair(item: Any, what: str) -> tuple[Tensor, Tensor]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"each {what} must be a pair (x, y), got {type(item).__name__}")
    return _tensor(item[0], "x"), _tensor(item[1], "y")


def _tensor(values: Any, name: str) -> Tensor:
    """As a tensor, sharing memory where that is safe: other byte orders and read-only arrays are copied."""
    if isinstance(values, Tensor):
        return values.detach()
    array = values if isinstance(values, np.ndarray) else _array(values, name)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {array.dtype}; expected numbers")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _array(values: Any, name: str) -> NDArray[Any]:
    if not isinstance(values, bool | int | float | np.generic | list | tuple):
        raise InputError(f"{name} is a {type(values).__name__}; expected a tensor or array (images: add a ToTensor)")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} is no rectangular array: {error}") from None
