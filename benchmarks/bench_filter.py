"""An 8th-order filter on (64, 48000) doubles: scipy.signal.sosfilt beside linrec.filter, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
import torch

import linrec


def seconds(function: Callable[[], Any]) -> float:
    """One run."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Print the medians of 15 alternating runs, and the largest difference."""
    sos = scipy.signal.butter(8, 0.2, output="sos")
    x = np.random.default_rng(0).standard_normal((64, 48_000))
    signal = torch.as_tensor(x)
    net: Any = linrec.filter(sos=sos)
    runs: dict[str, Callable[[], Any]] = {
        "sosfilt": lambda: scipy.signal.sosfilt(sos, x),
        "linrec": lambda: net(signal),
    }
    difference = np.abs(net(signal).numpy() - scipy.signal.sosfilt(sos, x)).max()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(15):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    for name, times in taken.items():
        print(f"{name:8} {1e3 * float(np.median(times)):7.1f} ms, {1e3 * min(times):7.1f} ms at best")
    print(f"threads {torch.get_num_threads()}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
