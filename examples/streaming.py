"""A live filter: train on windows in parallel, export one step, then run over half an hour of ECG in constant memory.

The network is to remove mains hum and noise from an electrocardiogram as it arrives: a small convolution over the last
samples, then two memories of the past. It is trained on windows of a part of the record, with hum and noise added; then
its recurrent form filters the rest of the record chunk by chunk, as a monitor would.

    python examples/streaming.py --data FOLDER --plot streaming.png
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import ecg_data
import numpy as np
import torch
from torch import Tensor, nn

import linrec
from linrec.nn import LMU

HUM = 50.0  # Hz
WINDOW = 360  # samples of a training window: one second
TRAINING = 200_000  # the samples trained on; the rest is new


class Denoiser(nn.Module):
    """(B, T, 1) millivolts with hum and noise to (B, T, 1) without."""

    def __init__(self, order: int = 24, width: int = 24) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, width, 9, padding=8)
        self.memories = nn.ModuleList(
            [LMU(width, width, order, theta, memory_size=2, encoder=torch.tanh) for theta in (30.0, 120.0)]
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        for memory in self.memories:
            z = z + memory(self.norm(z))
        y: Tensor = self.head(z)
        return y


def spoiled(clean: Tensor, first: Tensor, generator: torch.Generator) -> Tensor:
    """(B, T) with mains hum of unknown phase and white noise; `first` (B,) is each row's first sample's number."""
    steps = first.unsqueeze(1) + torch.arange(clean.shape[1])
    phase = torch.rand(clean.shape[0], 1, generator=generator) * 2 * math.pi
    hum = 0.2 * torch.sin(2 * math.pi * HUM / ecg_data.RATE * steps + phase)
    return clean + hum + 0.05 * torch.randn(clean.shape, generator=generator)


def train(net: Any, signal: Tensor, steps: int, generator: torch.Generator) -> list[float]:
    """Windows drawn at random; the first samples of each are left out of the loss. Losses, step by step."""
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    losses = []
    for _ in range(steps):
        first = torch.randint(0, TRAINING - WINDOW, (32,), generator=generator)
        clean = torch.stack([signal[i : i + WINDOW] for i in first.tolist()])
        found = net(spoiled(clean, first, generator).unsqueeze(-1)).squeeze(-1)
        loss = (found - clean)[:, 60:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def run_live(stream: Any, noisy: Tensor, chunk: int) -> tuple[Tensor, float, list[int]]:
    """Filter a signal (T,) chunk by chunk: the result, the seconds it took, and the peak memory after each tenth."""
    parts, peaks = [], []
    started = time.perf_counter()
    for start in range(0, len(noisy), chunk):
        parts.append(stream(noisy[start : start + chunk].view(1, -1, 1)).view(-1))
        if start // chunk % max(len(noisy) // chunk // 10, 1) == 0:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return torch.cat(parts), time.perf_counter() - started, peaks


def plot(file: Path, clean: Tensor, noisy: Tensor, found: Tensor) -> None:
    """Three seconds of all three."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(9, 4.5), sharex=True, sharey=True)
    seconds = np.arange(3 * ecg_data.RATE) / ecg_data.RATE
    shown = slice(1000, 1000 + len(seconds))
    axes[0].plot(seconds, noisy[shown], color="0.55", linewidth=0.8)
    axes[0].set_title("as it arrives: mains hum and noise", loc="left", fontsize=10)
    axes[1].plot(seconds, clean[shown], color="0.7", linewidth=2, label="recorded")
    axes[1].plot(seconds, found[shown], color="C0", linewidth=1, label="filtered, chunk by chunk")
    axes[1].legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    for ax in axes:
        ax.set_ylabel("mV")
    axes[1].set_xlabel("seconds")
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Train, export, filter, say how well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with 100.dat; downloaded once if not given")
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--chunk", type=int, default=36, help="samples that arrive together")
    parser.add_argument("--seconds", type=int, default=1200, help="how much of the rest of the record to filter")
    parser.add_argument("--onnx", type=Path, help="write the exported step here (needs linrec[export])")
    parser.add_argument("--plot", type=Path, help="write a figure here")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    try:
        signal = torch.from_numpy(ecg_data.find(options.data))
    except ecg_data.DataError as error:
        sys.exit(f"streaming: {error}")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net: Any = linrec.compile(Denoiser())
    losses = train(net, signal, options.steps, generator)
    print(net.report)
    net.export_step(str(options.onnx) if options.onnx else None)

    clean = signal[TRAINING : TRAINING + options.seconds * ecg_data.RATE]
    noisy = spoiled(clean.unsqueeze(0), torch.tensor([TRAINING]), generator)[0]
    stream = net.stream(1)
    found, seconds, peaks = run_live(stream, noisy, options.chunk)
    with torch.no_grad():
        whole = net(noisy[:3600].view(1, -1, 1)).view(-1)
    before, after = ((v - clean)[360:].square().mean().sqrt().item() for v in (noisy, found))
    result = {
        "schema": 1, "training_steps": options.steps, "last_loss": losses[-1], "chunk": options.chunk,
        "seconds_of_signal": len(clean) / ecg_data.RATE, "seconds_to_filter": seconds,
        "error_before_mv": before, "error_after_mv": after,
        "chunks_against_whole": (found[:3600] - whole).abs().max().item(),
        "state_numbers": sum(v.numel() for v in stream.state.values()) if stream.state else 0,
        "peak_growth_kib": peaks[-1] - peaks[len(peaks) // 2],
    }  # fmt: skip
    print(
        f"{result['seconds_of_signal']:.0f} s of signal in {seconds:.1f} s, {options.chunk} samples at a time; "
        f"error {before:.3f} mV -> {after:.3f} mV; state of {result['state_numbers']} numbers"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        plot(options.plot, clean, noisy, found)


if __name__ == "__main__":
    main()
