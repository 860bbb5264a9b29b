"""The embedded digits: their bytes, their split and their notice."""

import hashlib
from importlib.resources import files

import numpy as np
import torch

from sparring.data import load


def test_the_digits_are_1437_training_and_360_test_images_of_8x8() -> None:
    train, test = load("digits")
    assert (len(train), len(test)) == (1437, 360)
    for part in (train, test):
        assert part.shape == (1, 8, 8) and part.n_classes == 10 and part.name == "digits"
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64


def test_the_stored_values_are_the_published_ones() -> None:
    with np.load(str(files("sparring.data") / "digits.npz"), allow_pickle=False) as stored:
        images, labels, test = stored["images"], stored["labels"], stored["test"]
    digest = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    assert hashlib.sha256(images.tobytes()).hexdigest() == digest
    assert images.shape == (1797, 8, 8) and images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.unique(test).size == 360


def test_values_are_rescaled_from_0_16_to_0_255() -> None:
    train, test = load("digits")
    levels = {round(v * 255 / 16) for v in range(17)}
    assert set(train.images.unique().tolist()) == set(test.images.unique().tolist()) == levels
    assert train.floats().max() == 1 and train.floats().min() == 0


def test_the_split_is_fixed_and_stratified() -> None:
    train, test = load("digits")
    assert test.labels.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert (train.fingerprint, test.fingerprint) == (TRAIN, TEST)


def test_every_class_is_recognisable_by_its_mean_image() -> None:
    train, test = load("digits")
    means = torch.stack([train.floats((train.labels == k).nonzero().squeeze(1)).flatten(1).mean(0) for k in range(10)])
    nearest = torch.cdist(test.floats().flatten(1), means).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.85


def test_the_file_is_small_and_its_notice_lies_beside_it() -> None:
    folder = files("sparring.data")
    assert len((folder / "digits.npz").read_bytes()) < 46_000
    notice = (folder / "DIGITS_NOTICE.md").read_text()
    assert "CC BY 4.0" in notice and "Alpaydin" in notice and "UCI" in notice


TRAIN = "6cd102069508ef5c9cf533e045753dff9026fa14feafc547e22bad84698833af"
TEST = "2945f7da4eaf3c369f4508334ab437e0ce5a44828039b563321d331f520e1d10"
