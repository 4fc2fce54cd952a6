"""Every structure, compiled from its naive loop, beside that loop, hand-written forms and the floor of bare work.

    python benchmarks/bench_forms.py [--quick] [--only TEXT] [--skip-loop] [--repeat N] [--threads N] [--json FILE] [--plot FILE]

One process, interleaved, medians; the ratios are what holds on a shared machine, and with `--threads 1` the time is
that of the processor alone. Forward without gradients, and a
train step (forward and backward to all inputs and parameters, fresh gradients). Under each workload stand its targets;
after the workloads come "growth" and "corpus" (benchmarks/sweep.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers_jax
import sweep
import torch
from torch import Tensor, nn
from workloads import Target, Workload, workloads

import linrec
from linrec import native
from linrec.debug.memory import peak

LONG = 2000.0  # milliseconds: what takes longer is timed once


def train_step(model: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """Forward and backward; gradients start fresh."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    probe = None

    def run() -> None:
        nonlocal probe
        y = model(*leaves)
        if y.requires_grad:
            probe = torch.randn_like(y) if probe is None else probe
            torch.autograd.grad(y, [*leaves, *weights], probe, allow_unused=True)

    return run


def forward(model: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """Forward without gradients."""

    def run() -> None:
        with torch.no_grad():
            model(*inputs)

    return run


def medians(runs: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Milliseconds of each, interleaved, after a call that may compile; the loop a third as often, once if it is long."""
    seen: dict[str, list[float]] = {}
    for name, run in runs.items():
        first = _milliseconds(run)
        seen[name] = [first] if name == "loop" and first > LONG else []
    long = {name for name, times in seen.items() if times}
    for i in range(repeat):
        for name, run in runs.items():
            if name not in long and (name != "loop" or i % 3 == 0):
                seen[name].append(_milliseconds(run))
                if seen[name][-1] > LONG:
                    long.add(name)
    return {name: statistics.median(times) for name, times in seen.items()}


def _milliseconds(run: Callable[[], object]) -> float:
    """By the clock on the wall; with one thread the processor's time of this process, which others do not add to."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    run()
    return 1e3 * (clock() - started)


def measure(w: Workload, repeat: int, with_loop: bool) -> dict[str, Any]:
    """Forward and train step of one workload."""
    net: Any = linrec.compile(w.loop, verify="off")
    found: dict[str, Any] = {"workload": w.name, "loop_steps": w.loop_steps}
    for what, make in (("forward", forward), ("train", train_step)):
        runs = {"compiled": make(net, w.inputs)}
        runs |= {name: make(peer, w.inputs) for name, peer in w.peers.items()}
        runs |= peers_jax.runs(w, what)
        if with_loop:
            runs["loop"] = make(w.loop, tuple(x[:, : w.loop_steps or None] for x in w.inputs))
        floor = w.floor if what == "forward" else w.floor_train or w.floor
        runs["floor"] = forward(floor, w.inputs) if w.floor_train or what == "forward" else make(floor, w.inputs)
        found[what] = medians(runs, repeat)
        if with_loop and w.loop_steps:
            found[what]["loop"] *= w.inputs[0].shape[1] / w.loop_steps
        found["form"] = linrec.report(net).recurrences[0].form
        found["captured"] = linrec.report(net).recurrences[0].reason or "parallel"
        if any(t.what == what and t.beside in ("output", "bytes") for t in w.targets):
            found[what]["bytes"] = peak(runs["compiled"])
    with torch.no_grad():
        y = net(*w.inputs)
    found["output"] = y.numel() * y.element_size()
    found["targets"] = [t for target in w.targets if (t := judged(target, found)) is not None]
    return found


def judged(target: Target, found: dict[str, Any]) -> dict[str, Any] | None:
    """The ratio that a target bounds, and whether it is met; None where what it is measured against was not run."""
    times = found[target.what]
    if target.beside in ("output", "bytes"):
        ratio = times["bytes"] / (found["output"] if target.beside == "output" else 1)
    elif target.beside not in times:
        return None
    else:
        ratio = times["compiled"] / times[target.beside]
    ratio = 1 / ratio if target.speedup else ratio
    met = ratio >= target.bound if target.speedup else ratio <= target.bound
    return {**asdict(target), "ratio": ratio, "met": met}


def show(found: dict[str, Any]) -> None:
    """Two lines of the table, and one for each target."""
    for what in ("forward", "train"):
        times = found[what]
        mine = times["compiled"]
        others = (name for name in times if name not in ("compiled", "floor", "bytes"))
        ratios = "".join(f"{name} {times[name] / mine:8.2f}x   " for name in others)
        print(
            f"{found['workload']:<24}{what:<9}{mine:>10.2f} ms   {mine / times['floor']:6.2f}x floor   {ratios}{found['form']}",
            flush=True,
        )
    for t in found["targets"]:
        bound = f"{'>=' if t['speedup'] else '<='} {t['bound']:g}"
        print(
            f"    {t['what']:<8} {t['beside']:<10} {t['ratio']:10.4g}   to reach {bound:<10} {'met' if t['met'] else 'MISSED'}"
        )


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Compiled against its floor and the loop, one bar group a workload."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 0.42 * len(results) + 1.6), sharey=True, layout="constrained")
    names = [r["workload"] for r in results]
    for axis, what in zip(axes, ("forward", "train"), strict=True):
        for offset, (name, colour) in enumerate(
            {
                "floor": "0.75",
                "compiled": "tab:blue",
                "by hand": "tab:orange",
                "jax scan": "tab:green",
                "loop": "tab:red",
            }.items()
        ):
            pairs = [(i, r[what][name]) for i, r in enumerate(results) if name in r[what]]
            axis.barh([i + 0.2 * offset - 0.3 for i, _ in pairs], [t for _, t in pairs], 0.2, color=colour, label=name)
        axis.set(xscale="log", xlabel="milliseconds", title="forward" if what == "forward" else "train step")
        axis.set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: a check that everything runs")
    parser.add_argument("--only", default="", help="workloads whose name holds this text")
    parser.add_argument("--skip-loop", action="store_true", help="do not time the loops as written: they take minutes")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "native": native.status()}
    print(f"float32, {about['threads']} threads, torch {about['torch']}, {about['native']}")
    results: list[dict[str, Any]] = []
    swept: dict[str, Any] = {}

    def save() -> None:  # after each piece: a run that is cut off leaves what it has
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({**about, "results": results, **swept}, indent=1) + "\n")

    for w in workloads(options.quick):
        if options.only in w.name:
            results.append(measure(w, options.repeat, not options.skip_loop))
            show(results[-1])
            save()
    for name, run in {"growth": sweep.growth, "corpus": sweep.corpus}.items():
        if options.only in name:
            swept[name] = run(options.repeat, options.quick)
            save()
    if options.plot and results:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(results, options.plot)


if __name__ == "__main__":
    main()
