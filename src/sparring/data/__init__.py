"""Data: labelled inputs held once in memory, as uint8 or floats in [0, 1], and indexed into minibatches.

- `load(name)`: a known set as (training, test); `NAMES` lists them.
- `as_data(source)`: arrays, tensors, a Dataset or a DataLoader of your own, checked; `to_unit` for uint8
  pixels.
- `Data`; `split`, `stratified`: fixed parts of a set; `batch_indices`, `minibatch`: what training reads.
- `DataNotFound`: a known set is not on this machine and could not be fetched.
- modules `idx`, `download`, `digits`: readers; `synthetic`: problems whose robust accuracy is known exactly.
"""

import difflib
import os

import torch

from sparring.data.batches import Data, as_data, batch_indices, minibatch, split, stratified, to_unit
from sparring.data.digits import load_digits
from sparring.data.download import KNOWN, DataNotFound, known_arrays

NAMES = ("digits", *KNOWN)

__all__ = [
    "NAMES",
    "Data",
    "DataNotFound",
    "as_data",
    "batch_indices",
    "load",
    "minibatch",
    "split",
    "stratified",
    "to_unit",
]


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    allow_unknown: bool = False,
) -> tuple[Data, Data]:
    """(training, test) of a known set, as uint8 images (1, 28, 28), or (1, 8, 8) for the embedded "digits".

    Files are looked for under `root`, then $SPARRING_DATA, then the user's cache, and downloaded if need be
    and `download` allows it. Raises ValueError for an unknown name, a damaged file, or a file that is not
    the published one (unless `allow_unknown`), and DataNotFound where there are none.
    """
    if name == "digits":
        return load_digits()
    if name not in NAMES:
        nearest = difflib.get_close_matches(name.lower().replace("_", "-"), NAMES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown data set {name!r}{hint} (known: {', '.join(NAMES)})")
    x, y, x_test, y_test = map(
        torch.from_numpy, known_arrays(name, root=root, download=download, allow_unknown=allow_unknown)
    )
    n_classes = max(KNOWN[name].n_classes, int(y.max()) + 1, int(y_test.max()) + 1)
    return (
        Data(x.unsqueeze(1), y.long(), n_classes, name),
        Data(x_test.unsqueeze(1), y_test.long(), n_classes, name),
    )
