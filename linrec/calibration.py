"""Machine constants of the cost model: shipped defaults, or what was measured here when somebody asked.

`calibrate()` measures once and writes a small file; every later process reads it. Nothing is measured behind
anybody's back, so the same program gets the same forms until the file changes.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

from linrec import native
from linrec.linear.cost import Machine


def path() -> Path:
    """Where the measured constants lie: $LINREC_CALIBRATION, or linrec/machine.json in the user's cache folder."""
    named = os.environ.get("LINREC_CALIBRATION")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named) if named else Path(cache).expanduser() / "linrec" / "machine.json"


def load() -> Machine:
    """The measured constants, the shipped ones where there is no readable file."""
    machine = Machine(compiled=native.kernels() is not None)
    try:
        known = json.loads(path().read_text())
        matmul, fft, vector, memory, launch = (float(known[f.name]) for f in fields(Machine)[:5])
        return replace(machine, matmul=matmul, fft=fft, vector=vector, memory=memory, launch=launch)
    except (OSError, ValueError, KeyError, TypeError):
        return machine


def calibrate(*, save: bool = True, repeat: int = 7) -> Machine:
    """Measure this machine (about a second) and, with `save`, keep it for every later process.

    Matrix products of 512 x 512, FFTs of 4096 steps, elementwise work in cache and on 32 MiB, and the time of one
    small operator; medians, single precision, with the threads that torch has.
    """
    import torch

    def seconds(run: Callable[[], object]) -> float:
        run()
        times = []
        for _ in range(repeat):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    a, b = torch.randn(512, 512), torch.randn(512, 512)
    rows, small = torch.randn(256, 4096), torch.randn(1 << 14)
    wide, tiny = torch.randn(1 << 23), torch.randn(8)
    out, kept = torch.empty_like(wide), torch.empty_like(small)
    machine = Machine(
        matmul=2 * 512**3 / seconds(lambda: torch.mm(a, b)),
        fft=256 * 2.5 * 4096 * 12 / seconds(lambda: torch.fft.rfft(rows)),
        vector=2 * small.numel() / seconds(lambda: torch.addcmul(small, small, small, out=kept)),
        memory=3 * 4 * wide.numel() / seconds(lambda: torch.add(wide, wide, out=out)),
        launch=seconds(lambda: [torch.add(tiny, tiny) for _ in range(100)]) / 100,
        compiled=native.kernels() is not None,
    )
    if save:
        path().parent.mkdir(parents=True, exist_ok=True)
        path().write_text(json.dumps(asdict(machine), indent=1) + "\n")
    return machine
