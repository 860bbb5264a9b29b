"""The real MNIST, where SPARRING_TEST_DATA names a folder that holds it (mnist/ with the four files)."""

import os

import pytest

from sparring.data import load

ROOT = os.environ.get("SPARRING_TEST_DATA")


@pytest.mark.skipif(ROOT is None, reason="SPARRING_TEST_DATA is not set")
def test_mnist_has_the_published_sums_and_counts() -> None:
    train, test = load("mnist", root=ROOT, download=False)  # the sums are checked while loading
    assert train.shape == test.shape == (1, 28, 28)
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(train.images.float().mean() / 255) == pytest.approx(0.1307, abs=1e-4)
