"""An electrocardiogram to filter: record 100 of the MIT-BIH Arrhythmia Database, half an hour of two leads at 360 Hz.

Moody and Mark 2001, doi:10.1109/51.932724; on PhysioNet (Goldberger et al. 2000) under ODC-By 1.0. The file is read
from a folder, or downloaded once into a cache; either way only if its SHA-256 is the known one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

URL = "https://physionet.org/files/mitdb/1.0.0/100.dat"
SHA256 = "b2ea3c250e56e48f4b7b90697832b8ecd1afa1e0bb31f2dcfea4ed6e1075a639"
RATE = 360  # samples a second
GAIN, ZERO = 200.0, 1024  # units of a millivolt, and the unit of 0 mV


class DataError(Exception):
    """The data are missing or not what they should be."""


def find(folder: Path | None) -> NDArray[np.float32]:
    """The first lead in millivolts, (650000,). Raises DataError if it cannot be had."""
    if folder is not None:
        file = folder / "100.dat"
        if not file.exists():
            raise DataError(f"{file} does not exist; {URL} is the file")
    else:
        file = _downloaded()
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise DataError(f"{file} is not the file expected (SHA-256 {hashlib.sha256(data).hexdigest()}, not {SHA256})")
    return decoded(data)[:, 0]


def _downloaded() -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DataError("downloading needs pooch: pip install 'linrec[examples]', or give --data FOLDER") from error
    try:
        return Path(pooch.retrieve(URL, f"sha256:{SHA256}", fname="mitdb-100.dat", path=pooch.os_cache("linrec")))
    except (OSError, ValueError) as error:
        raise DataError(f"{URL} could not be downloaded: {error}; give --data FOLDER") from error


def decoded(data: bytes) -> NDArray[np.float32]:
    """Two leads in millivolts, (N, 2), from format 212: three bytes hold two signed numbers of twelve bits."""
    packed = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
    first = packed[:, 0] | (packed[:, 1] & 0x0F) << 8
    second = packed[:, 2] | (packed[:, 1] & 0xF0) << 4
    units = np.stack([first, second], 1)
    units[units > 2047] -= 4096
    found: NDArray[np.float32] = ((units - ZERO) / GAIN).astype(np.float32)
    return found
