"""Numeric probes: what a proof is backed by, never what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import torch

from linrec.dtypes import LONG
from linrec.interpret import run_step
from linrec.ir import Graph, Recurrence, Type, Use
from linrec.linear.analysis import state_reads
from linrec.sizes import evaluate, names_of
from linrec.transforms import outside

_PROBED = 3  # the length that stands for each named size; other sizes are the program's own
_LARGEST = 1 << 22  # numbers in one probed tensor


def superposition(graph: Graph, recurrence: Recurrence) -> float:
    """The relative error of f(a s + b s') = a f(s) + b f(s'), a + b = 1, over random states, in double precision.

    Plus, times and one are those of the semiring that the recurrence was proven in.

    0.0 where a tensor of the step is too large to probe cheaply, where states are booleans, and where an operator has no
    value at random numbers: a factorization, a row's number.
    """
    with outside():  # a transform of torch.func around the call has no part in it
        for wide in ("N", "NB"):  # what stands where a batch does may be rows of a model all the same
            with suppress(RuntimeError, IndexError):
                return _superposition(graph, recurrence, wide)
    return 0.0


def _superposition(graph: Graph, recurrence: Recurrence, wide: str) -> float:
    types: dict[str, Type] = {i.name: i.type for i in graph.inputs}
    types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
    if any(types[s].dtype == "bool" for s in recurrence.states):
        return 0.0
    members = set(recurrence.members)
    # a size that is no batch's may have to be as large as others
    largest = max((d for m in members & types.keys() for d in types[m].shape if isinstance(d, int)), default=0)
    names = {n for t in types.values() for d in t.shape for n in names_of(d)}
    lengths = {n: _PROBED + largest * (n[0] in wide) for n in names}
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
    mix = _mixers[recurrence.semiring]
    mixed = {s: mix(first[s], second[s]) for s in states}
    f, g, h = (run_step(graph, recurrence.members, {**fixed, **point}, lengths) for point in (first, second, mixed))
    worst = 0.0
    for name in recurrence.states:
        wanted = mix(f[name], g[name])
        if wanted.numel():
            scale = max(float(f[name].abs().amax()), float(g[name].abs().amax()), 1e-300)
            error = torch.where(h[name] == wanted, 0.0, (h[name] - wanted).abs() / min(scale, 1e300))
            worst = max(worst, float(error.amax()))
    return worst


_WEIGHT, _SHIFT = 0.375, 0.625  # a and b where plus is a sum; over (max, +) and (min, +) one is 0, the other loses
_mixers: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum-product": lambda s, t: _WEIGHT * s + (1 - _WEIGHT) * t,
    "max-plus": lambda s, t: torch.maximum(s, t - _SHIFT),
    "min-plus": lambda s, t: torch.minimum(s, t + _SHIFT),
    "log-sum-exp": lambda s, t: torch.logaddexp(s + math.log(_WEIGHT), t + math.log(1 - _WEIGHT)),
}


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
