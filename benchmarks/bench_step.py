"""The step of a compiled LMU against the two-product step that one writes by hand, in eager mode.

    m <- m Abar^T + u Bbar,    y = relu(W_m m + W_x x)

Interleaved rounds, medians, one thread; prints a table and writes JSON with --json FILE.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import linrec
from linrec.nn import LMU


def by_hand(layer: LMU) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """One step with the layer's own parts."""

    def step(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.relu(layer.U_x(x))
        m = m @ layer.Abar.T + u * layer.Bbar
        return torch.relu(layer.W_m(m) + layer.W_x(x)), m

    return step


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Seconds a call, the mean of some calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def compare(order: int, hidden: int, batch: int, rounds: int, repeats: int) -> dict[str, float]:
    """Medians of both, of rounds that alternate."""
    torch.manual_seed(0)
    layer = LMU(1, hidden, order, 784.0)
    net = linrec.compile(nn.Sequential(layer))
    x = torch.randn(batch, 32, 1)
    with torch.no_grad():
        net(torch.randn(2, 32, 1))
        rnn = linrec.recurrent(net)
        hand = by_hand(layer)
        x_t = x[:, 0].contiguous()
        state = rnn.step(x_t)[1]
        m = next(iter(state.values())).reshape(batch, order).clone()
        wanted, got = hand(x_t, m)[0], rnn.step(x_t, state=state)[0]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        times: dict[str, list[float]] = {"hand": [], "compiled": []}
        for _ in range(rounds):
            times["hand"].append(timed(lambda: hand(x_t, m), repeats))
            times["compiled"].append(timed(lambda: rnn.step(x_t, state=state), repeats))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [c / h for c, h in zip(times["compiled"], times["hand"], strict=True)]
    return {"order": order, "batch": batch, **medians, "ratio": statistics.median(ratios)}


def main() -> None:
    """Compare a few sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for order, hidden, batch in ((64, 64, 1), (256, 212, 1), (468, 346, 1), (256, 212, 32)):
        row = compare(order, hidden, batch, options.rounds, options.repeats)
        rows.append(row)
        print(
            f"order {order:4d} batch {batch:3d}   by hand {row['hand'] * 1e6:7.1f} us   "
            f"compiled {row['compiled'] * 1e6:7.1f} us   ratio {row['ratio']:.2f}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"schema": 1, "torch": torch.__version__, "steps": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
