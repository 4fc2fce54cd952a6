"""The recording that examples/streaming.py filters: its format, and what is no such file."""

from __future__ import annotations

import os
from pathlib import Path

import ecg_data
import numpy as np
import pytest


def encoded(first: list[int], second: list[int]) -> bytes:
    """Format 212: three bytes for two numbers of twelve bits."""
    found = bytearray()
    for a, b in zip(first, second, strict=True):
        a, b = a & 0xFFF, b & 0xFFF
        found += bytes([a & 0xFF, (a >> 8) | ((b >> 8) << 4), b & 0xFF])
    return bytes(found)


def test_numbers_of_twelve_bits() -> None:
    first, second = [995, -22, 2047, -2048, 0, 1024], [1011, -1, -2048, 2047, 1024, 3]
    want = (np.stack([first, second], 1) - 1024) / 200
    np.testing.assert_allclose(ecg_data.decoded(encoded(first, second)), want, rtol=1e-6)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ecg_data.DataError, match="does not exist"):
        ecg_data.find(tmp_path)
    (tmp_path / "100.dat").write_bytes(encoded([1, 2], [3, 4]))
    with pytest.raises(ecg_data.DataError, match="SHA-256"):
        ecg_data.find(tmp_path)


def test_the_record() -> None:
    folder = os.environ.get("LINREC_DATA")
    if not folder or not (Path(folder) / "mitdb-100" / "100.dat").exists():
        pytest.skip("LINREC_DATA names no folder with mitdb-100/100.dat")
    lead = ecg_data.find(Path(folder) / "mitdb-100")
    assert len(lead) == 650_000
    total = round(float((lead.astype(np.float64) * 200 + 1024).sum()))
    assert (total + 32768) % 65536 - 32768 == -22131, "the header's checksum, in 16 bits"
