"""Machine constants of the cost model: shipped defaults, or what was measured here when somebody asked.

`calibrate()` (on the command line `linrec doctor --calibrate`) measures once and writes a small file; every later
process reads it. Nothing is measured behind anybody's back, so the same program gets the same forms until the file
changes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from linrec import native
from linrec.linear.cost import Machine

UNITS = {
    "matmul": "operations/s in large matrix products",
    "small": "operations/s in products of many small matrices",
    "fft": "operations/s in FFTs",
    "vector": "operations/s in elementwise work",
    "cache": "bytes/s rearranged in cache",
    "memory": "bytes/s in fresh memory",
    "launch": "s an operator",
}
RATES = tuple(UNITS)


def path() -> Path:
    """Where the measured constants lie: $LINREC_CALIBRATION, or linrec/machine.json in the user's cache folder."""
    named = os.environ.get("LINREC_CALIBRATION")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named) if named else Path(cache).expanduser() / "linrec" / "machine.json"


def load() -> Machine:
    """The measured constants, the shipped ones where there is no readable file."""
    return _read() or _shipped()


def origin() -> str:
    """Where the constants in use come from, in words."""
    return (
        f"measured, {path()}" if _read() is not None else "shipped; `linrec doctor --calibrate` measures this machine"
    )


def _shipped() -> Machine:
    return Machine(compiled=native.kernels() is not None)


def _read() -> Machine | None:
    """What the file says; None without one, or where it lacks a rate or holds one that no machine has."""
    try:
        known = json.loads(path().read_text())
        rates: dict[str, Any] = {name: float(known[name]) for name in RATES}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return replace(_shipped(), **rates) if all(0 < r < math.inf for r in rates.values()) else None


def calibrate(*, save: bool = True, repeat: int = 25, progress: Callable[[str], None] = lambda _: None) -> Machine:
    """Measure this machine (some seconds) and, with `save`, keep it for every later process.

    Products of 512 x 512 and of many 24 x 24 matrices, FFTs of 4096 steps, elementwise work and a transpose in
    cache, sums of 64 MiB into fresh memory, and the time of a small operator; the best of `repeat` runs each, since whatever else the machine
    does only adds, in single precision, with the threads that torch has. `progress` is told what is measured.
    Raises OSError where the file cannot be written.
    """
    import torch

    large, many, rows = torch.randn(512, 512), torch.randn(2048, 24, 24), torch.randn(256, 4096)
    small, wide = torch.randn(1 << 14), torch.randn(1 << 24)
    kept, state, step = torch.empty_like(small), torch.randn(4, 8), torch.randn(4, 100, 8)

    def steps() -> None:
        h = state
        for x in step.unbind(1):
            h = torch.add(torch.mul(h, 0.5), x)

    # what is run, and how much of it a run does: operations, bytes, operators
    measured: dict[str, tuple[Callable[[], object], float]] = {
        "matmul": (lambda: torch.mm(large, large), 2 * 512**3),
        "small": (lambda: torch.bmm(many, many), 2 * 2048 * 24**3),
        "fft": (lambda: torch.fft.rfft(rows), 256 * 2.5 * 4096 * 12),
        "vector": (lambda: torch.addcmul(small, small, small, out=kept), 2 * small.numel()),
        "cache": (lambda: rows.mT.contiguous(), 2 * 4 * rows.numel()),
        "memory": (lambda: torch.add(wide, wide), 2 * 4 * wide.numel()),
        "launch": (steps, 2 * 100),
    }
    rates: dict[str, Any] = {}
    for name, (run, amount) in measured.items():
        progress(name)
        seconds = _best(run, repeat)
        rates[name] = seconds / amount if name == "launch" else amount / seconds
    machine = replace(_shipped(), **rates)
    if save:
        path().parent.mkdir(parents=True, exist_ok=True)
        path().write_text(json.dumps(asdict(machine), indent=1) + "\n")
    return machine


def _best(run: Callable[[], object], repeat: int) -> float:
    """Seconds of the fastest of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
