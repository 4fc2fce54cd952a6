"""Numeric probes: what a proof is backed by, never what it rests on."""

from __future__ import annotations

import torch

from linrec.dtypes import LONG
from linrec.interpret import run_step
from linrec.ir import Graph, Recurrence, Type, Use
from linrec.linear.analysis import state_reads
from linrec.sizes import evaluate, names_of

_PROBED = 3  # the length that stands for each named size; other sizes are the program's own
_LARGEST = 1 << 22  # numbers in one probed tensor


def superposition(graph: Graph, recurrence: Recurrence) -> float:
    """The relative error of f(a s + (1-a) s') = a f(s) + (1-a) f(s') over random states, in double precision.

    0.0 where a tensor of the step is too large to probe cheaply.
    """
    types: dict[str, Type] = {i.name: i.type for i in graph.inputs}
    types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
    members = set(recurrence.members)
    lengths = {n: _PROBED for t in types.values() for d in t.shape for n in names_of(d)}
    states = state_reads(graph, recurrence)
    reads = {use for m in recurrence.members for use in graph.op(m).uses() if use.name not in members or use.delay}
    generator = torch.Generator().manual_seed(0)
    fixed: dict[Use, torch.Tensor] = {}
    for use in sorted(reads - set(states), key=str):
        drawn = _random(types[use.name], lengths, generator)
        if drawn is None:
            return 0.0
        fixed[use] = drawn
    first: dict[Use, torch.Tensor] = {}
    second: dict[Use, torch.Tensor] = {}
    for s in states:
        for point in (first, second):
            drawn = _random(types[s.name], lengths, generator)
            if drawn is None:
                return 0.0
            point[s] = drawn
    weight = 0.375
    mixed = {s: weight * first[s] + (1 - weight) * second[s] for s in states}
    f, g, h = (run_step(graph, recurrence.members, {**fixed, **point}, lengths) for point in (first, second, mixed))
    worst = 0.0
    for name in recurrence.states:
        wanted = weight * f[name] + (1 - weight) * g[name]
        if wanted.numel():
            scale = max(float(f[name].abs().amax()), float(g[name].abs().amax()), 1e-300)
            worst = max(worst, float((h[name] - wanted).abs().amax()) / scale)
    return worst


def _random(type_: Type, lengths: dict[str, int], generator: torch.Generator) -> torch.Tensor | None:
    shape = [evaluate(d, lengths) for d in type_.shape]
    numbers = 1
    for n in shape:
        numbers *= n
    if numbers > _LARGEST:
        return None
    dtype = getattr(torch, LONG.get(type_.dtype, type_.dtype))
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point and not dtype.is_complex:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=generator, dtype=torch.complex128 if dtype.is_complex else torch.float64)
