"""`setting`: a classifier and its examples, for the tests of the worst case."""

from __future__ import annotations

import pytest
from torch import nn
from worst_cases import problem

from sparring.data.batches import Data


@pytest.fixture
def setting() -> tuple[nn.Module, Data]:
    """Made anew for each test, which may change it."""
    return problem()
