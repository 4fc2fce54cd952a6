"""Draws: small inputs for a graph, the same for the same seed.

Small integers make most programs exact in double precision, so that results can be compared bit by bit; positive
integers keep logarithms, roots and quotients finite; small reals do the same for long products, with coefficients
(inputs without an axis of time) so small that recurrences are stable. Beside them "resized" integers with other lengths
of all sizes but T, and "broken" reals, which are NaN at their last position in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from linrec.dtypes import LONG
from linrec.ir import Graph, Input, least_sizes
from linrec.sizes import Size, evaluate, names_of

Kind = Literal["integers", "positive", "reals", "resized", "broken"]
KINDS: tuple[Kind, ...] = ("integers", "positive", "reals", "resized", "broken")
LENGTHS = (1, 2, 3, 16, 67)  # every small case, two levels of a scan, more than one chunk of 64
FAR = 259  # beyond every border inside a kernel
_OTHERS = (2, 3, 5, 7, 11)  # lengths that stand for the sizes other than T
_LARGEST = 1 << 22  # numbers in one input


@dataclass(frozen=True)
class Draw:
    """Which inputs: the number of steps, the kind of numbers, the seed."""

    steps: int
    kind: Kind
    seed: int = 0

    def __str__(self) -> str:
        return f"T={self.steps}, {self.kind}, seed {self.seed}"


def draws(graph: Graph, steps: Sequence[int] = LENGTHS, seeds: int = 1) -> list[Draw]:
    """Draws at every length that the graph can have: its loops run at least once."""
    timed = "T" in _names(graph)
    found = [
        Draw(n, kind, seed)
        for seed in range(seeds)
        for n in (steps if timed else (0,))
        for kind in KINDS[:3]
        if kind != "positive" or n <= 16
    ]
    found.append(Draw(3 if timed else 0, "resized"))
    found += [Draw(5, "broken"), Draw(FAR, "reals")] * timed
    return [d for d in dict.fromkeys(found) if _fits(graph, lengths_at(graph, d.steps, d.kind))]


def lengths_at(graph: Graph, steps: int, kind: Kind = "integers") -> dict[str, int]:
    """A number for each named size: `steps` for T, small primes for the others."""
    others = sorted(_names(graph) - {"T"})
    turn = kind == "resized"
    return {"T": steps} | {name: _OTHERS[(i + turn) % len(_OTHERS)] for i, name in enumerate(others)}


def draw(graph: Graph, chosen: Draw) -> dict[str, Tensor]:
    """The inputs, in double precision where they are floating point."""
    lengths = lengths_at(graph, chosen.steps, chosen.kind)
    generator = torch.Generator().manual_seed(1009 * chosen.seed + KINDS.index(chosen.kind))
    return {i.name: _tensor(i, lengths, chosen.kind, generator) for i in graph.inputs}


@contextmanager
def double_precision(seed: int = 0) -> Iterator[None]:
    """Constants without a type are doubles in here; random numbers are those of the seed, and the state is put back."""
    was, state = torch.get_default_dtype(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_default_dtype(was)
        torch.set_rng_state(state)


def _tensor(i: Input, lengths: Mapping[str, int], kind: Kind, generator: torch.Generator) -> Tensor:
    shape = [evaluate(d, lengths) for d in i.type.shape]
    dtype: torch.dtype = getattr(torch, LONG.get(i.type.dtype, i.type.dtype))
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point and not dtype.is_complex:
        return torch.randint(0, 2, shape, generator=generator, dtype=dtype)  # indices that every table has
    wide = torch.complex128 if dtype.is_complex else torch.float64
    if kind in ("reals", "broken"):
        found = torch.randn(shape, generator=generator, dtype=wide) * (1.0 if _varies(i) else 0.3)
        axis = next((k for k, d in enumerate(i.type.shape) if "T" in names_of(d)), None)
        if kind == "broken" and axis is not None:
            found.select(axis, -1).fill_(torch.nan)
        return found
    low, high = (1, 4) if kind == "positive" else (-3, 4)
    real = torch.randint(low, high, shape, generator=generator).to(torch.float64)
    if not dtype.is_complex:
        return real
    return torch.complex(real, torch.randint(low, high, shape, generator=generator).to(torch.float64))


def _varies(i: Input) -> bool:
    return any("T" in names_of(d) for d in i.type.shape)


def _names(graph: Graph) -> set[str]:
    trips = {n for t in graph.times for n in names_of(t.trip)}
    return set(graph.sizes()) | trips


def _fits(graph: Graph, lengths: Mapping[str, int]) -> bool:
    if any(evaluate(t.trip, lengths) < 1 for t in graph.times):
        return False
    for i in graph.inputs:
        numbers = 1
        for dim in i.type.shape:
            numbers *= evaluate(dim, lengths) if isinstance(dim, Size) else dim
        if numbers < 0 or numbers > _LARGEST:
            return False
    return all(evaluate(d, lengths) >= 0 for d in least_sizes(graph) if names_of(d) <= lengths.keys())
