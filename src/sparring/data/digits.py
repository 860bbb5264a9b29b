"""The embedded set: 1,797 handwritten digits of 8x8 pixels, so that a demonstration needs no network.

UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), CC BY 4.0; see DIGITS_NOTICE.md.
"""

from importlib.resources import files

import numpy as np
import torch

from sparring.data.batches import Data

LEVELS = 16  # the source counts ink in blocks of 4x4 pixels: values 0..16


def load_digits() -> tuple[Data, Data]:
    """(training, test): 1,437 and 360 images (1, 8, 8), uint8 0..255, ten classes.

    The split is fixed: the file lists the test images, a random fifth of each class, and both parts keep the
    source's order. Values are round(v * 255 / 16) for the source's v in 0..16.
    """
    with (
        files("sparring.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        values, labels, test = stored["images"], stored["labels"], stored["test"]
    pixels = np.rint(values * (255 / LEVELS)).astype(np.uint8)
    whole = Data(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)), 10, "digits")
    is_test = torch.zeros(len(whole), dtype=torch.bool)
    is_test[torch.from_numpy(test.astype(np.int64))] = True
    return whole.take((~is_test).nonzero().squeeze(1)), whole.take(is_test.nonzero().squeeze(1))
