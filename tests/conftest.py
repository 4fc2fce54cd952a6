"""Fixtures of several test files."""

from __future__ import annotations

import logging
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


class _Broken(logging.Handler):
    """Hears of defects of linrec's own, after which a program runs as written: with the right results, so silently."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "linrec itself failed" in record.getMessage():
            self.heard.append(record.getMessage())


@pytest.fixture(autouse=True)
def _nothing_breaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test passes only if linrec did not fail inside, or if that is what it tests (`@pytest.mark.breaks`)."""
    log, handler = logging.getLogger("linrec"), _Broken()
    log.addHandler(handler)
    yield
    log.removeHandler(handler)
    assert not handler.heard or request.node.get_closest_marker("breaks"), handler.heard
