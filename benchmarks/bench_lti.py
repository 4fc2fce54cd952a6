"""Time-invariant workloads: the loop as written, the same compiled, and the bare work by hand.

    python benchmarks/bench_lti.py [--json FILE] [--repeat N] [--threads N]

Everything runs in one process, interleaved; medians and ratios. `bare` is the least that any form has to do:
one matrix product where only the last state is read, the FFTs alone where all are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import linrec
from linrec.nn import zero_order_hold

BATCH, STEPS, ORDER = 100, 784, 468


class Memory(nn.Module):
    """A dense recurrence of order 468 driven by one channel; `read` says what is read from it."""

    A: Tensor
    B: Tensor

    def __init__(self, read: str) -> None:
        super().__init__()
        a, b = zero_order_hold(ORDER, float(STEPS))
        self.read = read
        self.register_buffer("A", torch.tensor(a, dtype=torch.float32))
        self.register_buffer("B", torch.tensor(b, dtype=torch.float32))
        self.scale = nn.Parameter(torch.ones(1))
        self.readout = nn.Linear(ORDER, 1)

    def forward(self, x: Tensor) -> Tensor:
        m = x.new_zeros(x.shape[0], ORDER)
        outputs = []
        for t in range(x.shape[1]):
            m = m @ self.A.T + (self.scale * x[:, t]) * self.B
            if self.read == "all":
                outputs.append(m)
            elif self.read == "readout":
                outputs.append(self.readout(m))
        return m if self.read == "last" else torch.stack(outputs, 1)


@dataclass
class Bare:
    """The work no form can do without."""

    read: str
    response: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        if self.read == "last":
            return x.squeeze(-1) @ self.response
        channels = self.response if self.read == "all" else self.response[:, :1]
        size = 2 * STEPS
        spectrum = torch.fft.rfft(x.transpose(1, 2), size) * torch.fft.rfft(channels.T, size)
        return torch.fft.irfft(spectrum, size)[..., :STEPS].transpose(1, 2)


def train_step(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def run() -> None:
        model(x.requires_grad_()).square().mean().backward()

    return run


def forward(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def medians(runs: dict[str, Callable[[], None]], repeat: int) -> dict[str, float]:
    """Milliseconds of each, interleaved; the loop a third as often."""
    for run in runs.values():
        run()
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeat):
        for name, run in runs.items():
            if name != "loop" or i % 3 == 0:
                started = time.perf_counter()
                run()
                seen[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x = torch.randn(BATCH, STEPS, 1)
    results: dict[str, dict[str, float]] = {}
    print(f"batch {BATCH}, {STEPS} steps, order {ORDER}, float32, {torch.get_num_threads()} threads; milliseconds")
    print(f"{'workload':<24}{'loop':>10}{'compiled':>10}{'bare':>10}{'speed-up':>10}{'over bare':>11}  form")
    for read in ("last", "readout", "all"):
        loop = Memory(read)
        net = linrec.compile(loop)
        response = linrec.compile(Memory("all"))(torch.eye(STEPS)[:1].unsqueeze(-1))[0].detach()
        bare = Bare(read, response.flip(0) if read == "last" else response)
        for what, make in (("forward", forward), ("train", train_step)):
            found = medians({"loop": make(loop, x), "compiled": make(net, x), "bare": make(bare, x)}, options.repeat)
            found["speedup"], found["over_bare"] = found["loop"] / found["compiled"], found["compiled"] / found["bare"]
            results[f"{read} {what}"] = found
            form = net.report.recurrences[0].form
            print(
                f"{read + ', ' + what:<24}{found['loop']:>10.2f}{found['compiled']:>10.2f}{found['bare']:>10.2f}"
                f"{found['speedup']:>9.1f}x{found['over_bare']:>10.2f}x  {form}"
            )
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}, indent=1)
        )


if __name__ == "__main__":
    main()
