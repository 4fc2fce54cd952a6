"""Fixtures of several test files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from linrec import native


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread, its generator from seed 0: sums are then the same from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Kernels with and without the library."""
    if request.param == "plain":
        monkeypatch.setattr(native, "kernels", lambda: None)
    elif native.kernels() is None:
        pytest.skip("built without compiled kernels")
    yield request.param
