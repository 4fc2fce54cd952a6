"""Without compiled kernels: the same results in plain operators, in every form, and the report says so."""

from __future__ import annotations

import importlib.machinery
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_shapes import Dense, Modes, best_path, decay, each_its_own, gated
from torch import Tensor

import linrec
from linrec import calibration, native
from linrec.debug import health
from linrec.kernels import compiled


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As where the package was built without a C compiler: there is no library to load."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native.kernels.cache_clear()
    yield
    native.kernels.cache_clear()


def attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
    s, out = q.new_zeros(q.shape[0], q.shape[2], v.shape[2]), []
    for t in range(q.shape[1]):
        s = a[:, t].unsqueeze(-1) * s + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        out.append(torch.einsum("bk,bkv->bv", q[:, t], s))
    return torch.stack(out, 1)


def delta(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s, out = q.new_zeros(q.shape[0], q.shape[2], v.shape[2]), []
    for t in range(q.shape[1]):
        s = s + k[:, t].unsqueeze(-1) * (v[:, t] - torch.einsum("bk,bkv->bv", k[:, t], s)).unsqueeze(-2)
        out.append(torch.einsum("bk,bkv->bv", q[:, t], s))
    return torch.stack(out, 1)


def rows(*widths: int) -> list[Tensor]:
    return [torch.randn(3, 40, n, dtype=torch.float64) for n in widths]


PROGRAMS: dict[str, Callable[[], tuple[Any, list[Tensor]]]] = {
    "final": lambda: (Dense(5, 2, 2, "last", True).double(), rows(2)),
    "convolution": lambda: (Modes(3, 4).double(), rows(3)),
    "scan": lambda: (gated, [r.sigmoid() for r in rows(6)] + rows(6)),
    "decay": lambda: (decay, [torch.rand(6, dtype=torch.float64), *rows(6)]),
    "associative": lambda: (each_its_own, [0.3 * torch.randn(3, 40, 4, 4, dtype=torch.float64), *rows(4)]),
    "max-plus": lambda: (best_path, [torch.randn(4, 4, dtype=torch.float64), *rows(4)]),
    "chunked": lambda: (attention, [*rows(4, 4, 3), *(r.sigmoid() for r in rows(4))]),
    "wy": lambda: (delta, [*rows(4), *(torch.nn.functional.normalize(r, dim=-1) for r in rows(4)), *rows(3)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_everything_still_works(name: str, without: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a compiled kernel was called")

    monkeypatch.setattr(compiled, "forward", never)
    monkeypatch.setattr(compiled, "backward", never)
    assert native.kernels() is None and not calibration.load().compiled
    program, inputs = PROGRAMS[name]()
    net = linrec.compile(program)
    given = [x.requires_grad_() for x in inputs]
    got, wanted = net(*given), program(*given)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    probe = torch.randn_like(wanted)
    for a, b in zip(torch.autograd.grad(got, given, probe), torch.autograd.grad(wanted, given, probe), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    report = linrec.report(net)
    assert report.recurrences[0].form != "sequential"
    assert report.versions["kernels"] == "plain" and "kernels plain" in str(report)


def test_it_is_said(without: None) -> None:
    assert native.status() == "no compiled kernels: plain operators everywhere"
    assert dict(health.machine())["kernels"] == native.status()


def test_a_library_that_cannot_be_loaded_is_none_at_all(without: None, tmp_path: Path) -> None:
    (tmp_path / f"_kernels{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    assert native.kernels() is None
