"""One small trained model, and the sets, for all tests of the audit."""

import pytest
from torch import nn

from sparring import data
from sparring.auditing.selftest import trained
from sparring.data import Data


@pytest.fixture(scope="session")
def digits() -> tuple[Data, Data]:
    return data.load("digits")


@pytest.fixture(scope="session")
def plain(digits: tuple[Data, Data]) -> nn.Module:
    """An honest model, trained on clean images."""
    return trained(digits[0])
