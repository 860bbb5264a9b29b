"""One torch thread a process, a seeded generator, and GPU tests skipped where there is no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

try:
    import torch as _torch
except ImportError:  # the tests of run.py need no torch
    _torch = None  # type: ignore[assignment]
else:
    _torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own for each test, always with the same seed."""
    assert _torch is not None
    return _torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu on a machine without one."""
    if _torch is not None and _torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
