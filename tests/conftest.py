"""One torch thread a process, a seeded generator, and GPU tests skipped where there is no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

try:
    import torch as _torch
except ImportError:  # the tests of run.py need no torch
    _torch = None  # type: ignore[assignment]
else:
    _torch.set_num_threads(1)
    _MATMUL: Any = getattr(_torch.backends.mkldnn, "matmul", None)
    _PRODUCTS = getattr(_MATMUL, "fp32_precision", None)


@pytest.fixture(autouse=True)
def products() -> Iterator[None]:
    """Whatever called what our own processes call at their start: the next test multiplies as PyTorch does by itself."""
    if _torch is not None and _PRODUCTS is not None:
        _MATMUL.fp32_precision = _PRODUCTS  # a fixture of wider scope may have set it
    yield
    if _torch is not None and _PRODUCTS is not None:
        _MATMUL.fp32_precision = _PRODUCTS


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
