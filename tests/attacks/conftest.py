"""The model and the examples of the tests of strong attacks; a file may have others of its own."""

import pytest
from problems import own_batch, trained_model
from torch import Tensor, nn


@pytest.fixture
def model() -> nn.Module:
    return trained_model()


@pytest.fixture
def batch(model: nn.Module) -> tuple[Tensor, Tensor]:
    return own_batch(model)
