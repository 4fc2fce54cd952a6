"""What holds for every program: no call is slower than its loop, and time a step does not depend on the length.

    corpus    each program of tests/programs, forward and forward + backward: a call that takes the loop over 1 ms takes
              at most 1.1 times as long, a shorter one at most 50 microseconds more
    growth    scans and chunks from 2^11 to 2^16 steps: nanoseconds a step within 1.3 times of one another

Calls take turns, and the fastest of each counts: whatever else the machine does only adds to a time.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from workloads import Memory, attention, delta, gated

import linrec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from programs import Program
from programs import corpus as programs

SHORT, SLOWER, ADDED = 1e-3, 1.1, 50e-6
LENGTHS = (16, 256, 2048)
AGAIN = 4  # more turns for what looks too slow
FLAT = 1.3


def corpus(repeat: int, quick: bool) -> dict[str, Any]:
    """Every program beside its own loop; one in twenty of them if `quick`."""
    every = list(programs().values())
    rows = []
    for program in every[:: 20 if quick else 1]:
        for steps in sorted({program.length(n) for n in LENGTHS[: 2 if quick else None]}):
            for train in (False, True)[: 1 + program.gradients]:
                rows.append(_beside(program, steps, train, repeat))
    slow = [r for r in rows if not r["met"]]
    for r in slow:
        print(f"    {r['program']} T={r['steps']} {r['what']}: {r['compiled']:.3f} ms, its loop {r['loop']:.3f} ms")
    ordered = sorted(r["loop"] / r["compiled"] for r in rows)
    print(
        f"corpus: {len(rows)} calls of {len({r['program'] for r in rows})} programs, {len(slow)} slower than allowed; "
        f"times as fast as the loop: least {ordered[0]:.2f}, median {ordered[len(ordered) // 2]:.2f}, "
        f"most {ordered[-1]:.0f}",
        flush=True,
    )
    return {"rows": rows, "missed": len(slow)}


def _beside(program: Program, steps: int, train: bool, repeat: int) -> dict[str, Any]:
    inputs = program.inputs(steps, 8)
    calls = {"loop": program.build(), "compiled": linrec.compile(program.build(), verify="off")}
    best = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        _seconds(call, inputs, train)
    for turn in range(repeat * (1 + AGAIN)):
        if turn >= repeat and _is_met(best):
            break
        for name, call in calls.items():
            best[name] = min(best[name], _seconds(call, inputs, train))
    what = "train" if train else "forward"
    times = {name: 1e3 * s for name, s in best.items()}
    return {"program": program.name, "steps": steps, "what": what, **times, "met": _is_met(best)}


def _is_met(seconds: dict[str, float]) -> bool:
    loop, ours = seconds["loop"], seconds["compiled"]
    return ours <= (SLOWER * loop if loop > SHORT else loop + ADDED)


def _seconds(call: Callable[..., Any], inputs: tuple[Tensor, ...], train: bool) -> float:
    smooth = [x.is_floating_point() or x.is_complex() for x in inputs]
    given = [x.clone().requires_grad_(train and s).clone() for x, s in zip(inputs, smooth, strict=True)]
    torch.manual_seed(0)
    started = time.perf_counter()
    with torch.set_grad_enabled(train):
        leaves = pytree.tree_leaves(call(*given))
        if train:
            total = [x.abs().sum() for x in leaves if isinstance(x, Tensor) and x.requires_grad]
            if total:
                torch.stack(total).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - started


def growth(repeat: int, quick: bool) -> dict[str, Any]:
    """Nanoseconds a step of one row, forward without gradients, at each length."""
    lengths = [1 << k for k in range(11, 14 if quick else 17)]
    cases: dict[str, tuple[Any, str, Callable[[int, int], tuple[Tensor, ...]]]] = {
        "scan": (gated, "scan", lambda b, t: (torch.rand(b, t, 64), torch.randn(b, t, 64))),
        "dense chunks": (Memory("readout", 32, 300), "chunked", lambda b, t: (torch.randn(8 * b, t, 1),)),
        "attention": (attention, "chunked", lambda b, t: (*_heads(b, t), 0.9 + 0.1 * torch.rand(b, t, 1, 32))),
        "delta rule": (delta, "wy", lambda b, t: (*_heads(b, t), torch.rand(b, t, 1, 1))),
    }
    found: dict[str, Any] = {}
    for name, (loop, form, inputs) in cases.items():
        net: Any = linrec.compile(loop, verify="off", forms=form)
        given = {t: inputs(2 * lengths[-1] // t, t) for t in lengths}
        best = dict.fromkeys(lengths, math.inf)
        with torch.no_grad():
            net(*given[lengths[0]])
            for _ in range(repeat):
                for t in lengths:
                    started = time.perf_counter()
                    net(*given[t])
                    best[t] = min(best[t], time.perf_counter() - started)
        each = {t: 1e9 * s / (2 * lengths[-1]) for t, s in best.items()}
        ratio = max(each.values()) / min(each.values())
        found[name] = {"ns": each, "ratio": ratio, "met": ratio <= FLAT}
        told = ", ".join(f"{t}: {ns:.1f}" for t, ns in each.items())
        print(
            f"growth of {name:<13} {told} ns a step; {ratio:.2f}   to reach <= {FLAT:g} {'met' if ratio <= FLAT else 'MISSED'}",
            flush=True,
        )
    return found


def _heads(b: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(b, t, 1, 32) for _ in range(3))
    return q, torch.nn.functional.normalize(k, dim=-1), v
