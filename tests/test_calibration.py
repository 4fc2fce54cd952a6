"""Machine constants: shipped, measured on request, read back; the choice of forms is deterministic and printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sympy
import torch
from torch import Tensor

import linrec
from linrec import calibration
from linrec.linear.cost import Machine, estimates, matrix_estimates, scan_estimates

SIZES = {"B": 100, "T": 784, "g": 1, "n": 468, "p": 1, "q": 468, "m": 3}


def test_constants_are_measured_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINREC_CALIBRATION", str(tmp_path / "deep" / "machine.json"))
    assert calibration.load().matmul == Machine().matmul
    measured = calibration.calibrate(repeat=1)
    assert all(getattr(measured, name) > 0 for name in calibration.RATES)
    assert calibration.load() == measured
    (tmp_path / "deep" / "machine.json").write_text("{}")
    assert calibration.load().matmul == Machine().matmul
    (tmp_path / "deep" / "machine.json").write_text(json.dumps({"matmul": "fast"}))
    assert calibration.load().matmul == Machine().matmul


def test_constants_that_no_machine_has_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINREC_CALIBRATION", str(tmp_path / "machine.json"))
    calibration.calibrate(repeat=1)
    assert calibration.origin().startswith("measured")
    known = json.loads((tmp_path / "machine.json").read_text())
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        (tmp_path / "machine.json").write_text(json.dumps({**known, "fft": wrong}))
        assert calibration.load().fft == Machine().fft and calibration.origin().startswith("shipped")


def test_estimates_are_symbolic_and_follow_the_machine() -> None:
    found = {e.form: e for e in estimates(SIZES, response="kept", final=True)}
    assert found["final"].seconds < found["convolution"].seconds < found["sequential"].seconds
    assert "B" in found["convolution"].flops and "T" in found["convolution"].bytes
    slow = {e.form: e.seconds for e in estimates(SIZES, response="kept", final=True, machine=Machine(fft=1e8))}
    assert slow["convolution"] > slow["chunked"]
    sizes = {"E": 64, "T": 4096, "n": 1, "L": 64, "F": 64, "m": 2}
    plain, compiled = (scan_estimates(sizes, machine=Machine(compiled=c))[0] for c in (False, True))
    assert (plain.form, compiled.form) == ("scan", "scan") and compiled.seconds < plain.seconds
    wy = matrix_estimates({"E": 4, "T": 2048, "k": 64, "v": 64, "r": 1, "m": 5}, "wy")
    assert [e.form for e in wy] == ["wy", "sequential"] and wy[0].seconds < wy[1].seconds


def test_what_is_printed_is_what_was_computed() -> None:
    """The symbolic costs at the sizes of a call, divided by the rates, are the predicted seconds."""
    machine = Machine(matmul=1e9, small=1e9, fft=1e9, vector=1e9, cache=1e30, memory=1e30, launch=1e-5)
    sizes = {**SIZES, "B": 3, "T": 256, "n": 12, "q": 2, "g": 5}
    for e in estimates(sizes, response="built", final=True, machine=machine):
        flops, depth = (float(sympy.sympify(text).subs(sizes)) for text in (e.flops, e.depth))
        assert e.seconds == pytest.approx(flops / 1e9 + depth * 1e-5, rel=1e-9)
    huge = Machine(1e30, 1e30, 1e30, 1e30, cache=1e9, memory=1e9, launch=0.0)
    for e in estimates(sizes, response="built", final=True, machine=huge):
        assert e.seconds == pytest.approx(float(sympy.sympify(e.bytes).subs(sizes)) / 1e9, rel=1e-9)


def test_the_same_sizes_and_constants_give_the_same_form() -> None:
    def leaky(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
        return h

    first, second = (linrec.explain(leaky, torch.randn(3, 100, 4)).recurrences[0] for _ in range(2))
    assert (first.form, first.cost, first.alternatives) == (second.form, second.cost, second.alternatives)


def test_a_diagonal_recurrence_with_constant_decay_is_scanned() -> None:
    def smooth(x: Tensor) -> Tensor:
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    net, x = linrec.compile(smooth), torch.randn(4, 300, 16, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(net(x), smooth(x), rtol=1e-12, atol=1e-12)
    first = linrec.report(net).recurrences[0]
    assert (first.kind, first.form) == ("lti", "scan") or not calibration.load().compiled
    assert {a.form for a in first.alternatives} >= {"chunked", "convolution", "sequential"}
