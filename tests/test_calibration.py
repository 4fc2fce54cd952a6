"""Machine constants: shipped, measured on request, read back; the choice of forms is deterministic and printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
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
    assert min(measured.matmul, measured.fft, measured.vector, measured.memory, measured.launch) > 0
    assert calibration.load() == measured
    (tmp_path / "deep" / "machine.json").write_text("{}")
    assert calibration.load().matmul == Machine().matmul
    (tmp_path / "deep" / "machine.json").write_text(json.dumps({"matmul": "fast"}))
    assert calibration.load().matmul == Machine().matmul


def test_estimates_are_symbolic_and_follow_the_machine() -> None:
    found = {e.form: e for e in estimates(SIZES, constant=True, final=True)}
    assert found["final"].seconds < found["convolution"].seconds < found["sequential"].seconds
    assert "B" in found["convolution"].flops and "T" in found["convolution"].bytes
    slow = {e.form: e.seconds for e in estimates(SIZES, constant=True, final=True, machine=Machine(fft=1e8))}
    assert slow["convolution"] > slow["chunked"]
    sizes = {"E": 64, "T": 4096, "n": 1, "m": 2}
    plain, compiled = (scan_estimates(sizes, "scan", machine=Machine(compiled=c))[0] for c in (False, True))
    assert compiled.seconds < plain.seconds
    wy = matrix_estimates({"E": 4, "T": 2048, "k": 64, "v": 64, "r": 1, "m": 5}, "wy")
    assert wy[0].seconds < wy[1].seconds


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
