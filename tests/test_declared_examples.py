"""The examples of declared networks: one memory four ways, and a filter tuned on a signal."""

from __future__ import annotations

import os
from pathlib import Path

import filter_tuning
import lmu_four_ways
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("order", [1, 6, 24])
def test_four_ways_become_one(order: int) -> None:
    u = torch.randn(3, 200, 1, dtype=torch.float64)
    wanted = lmu_four_ways.Loop(order, 50.0)(u)
    found = set()
    for name, net in lmu_four_ways.four_ways(order, 50.0).items():
        torch.testing.assert_close(net(u).detach(), wanted, rtol=0, atol=1e-10, msg=name)
        (r,) = net.report.recurrences
        found.add((r.kind, r.structure, r.form))
    assert len(found) == 1 and not any("sequential" in f for f in found)


def test_tuning_a_filter_on_a_made_up_heartbeat(tmp_path: Path) -> None:
    outcome = filter_tuning.tune(filter_tuning.heartbeat(50), steps=12, window=1800)
    assert outcome.losses[-1] < 0.8 * outcome.losses[0]
    assert outcome.before < outcome.designed < outcome.tuned
    assert np.abs(np.linalg.eigvals(outcome.net.matrices()[0].detach().numpy())).max() < 1
    assert outcome.net.report.recurrences[0].form != "sequential"
    pytest.importorskip("matplotlib")
    filter_tuning.plot(outcome, tmp_path / "tuned.png")
    assert (tmp_path / "tuned.png").stat().st_size > 10_000


def test_format_212() -> None:
    def packed(a: int, b: int) -> bytes:
        a, b = a & 0xFFF, b & 0xFFF
        return bytes([a & 0xFF, a >> 8 | b >> 8 << 4, b & 0xFF])

    values = [0, 1024, -1, -2048, 2047, 995]
    got = filter_tuning.decoded(b"".join(packed(v, 7) for v in values))
    np.testing.assert_array_equal(got, (np.array(values) - 1024) / 200)


def test_a_record_that_is_not_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(filter_tuning.DataError, match="missing"):
        filter_tuning.record(tmp_path)
    (tmp_path / "100.dat").write_bytes(b"abc")
    with pytest.raises(filter_tuning.DataError, match="SHA-256 ba7816bf"):
        filter_tuning.record(tmp_path)


@pytest.mark.skipif("LINREC_MITDB" not in os.environ, reason="LINREC_MITDB names a folder with 100.dat")
def test_the_record_itself() -> None:
    lead = filter_tuning.record(Path(os.environ["LINREC_MITDB"]))
    assert len(lead) == 650_000 and lead[0] == (995 - 1024) / 200
    assert round(float((lead * 200 + 1024).sum())) % 65536 == -22131 % 65536  # the checksum in the record's header
    outcome = filter_tuning.tune(lead[: 60 * filter_tuning.RATE], steps=20)
    assert outcome.tuned > outcome.designed > outcome.before
