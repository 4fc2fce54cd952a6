"""Dynamics: poles and impulse response of a time-invariant recurrence at its live parameters; errors by block of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linrec.debug.draws import double_precision
from linrec.dtypes import LONG
from linrec.interpret import interpret, lengths_of, run_step
from linrec.ir import Graph, Recurrence, Type, Use
from linrec.linear.analysis import state_reads
from linrec.sizes import evaluate

WIDEST = 512  # states beyond this many numbers are not written as a matrix
_RESPONSE = 128  # steps
_SHOWN = 4  # components
BLOCKS = 16


@dataclass(frozen=True)
class Dynamics:
    """Eigenvalues of the transition, and the largest components of the response to a unit impulse of every drive."""

    poles: list[complex]
    response: list[list[float]]


def dynamics(graph: Graph, recurrence: Recurrence, inputs: Mapping[str, Tensor]) -> Dynamics | None:
    """None where the recurrence varies over time, has no steps, or is wider than WIDEST.

    `graph` is that before lowering; `inputs` by name, live parameters among them. A named size, such as the batch, is
    looked at in its first row.
    """
    if recurrence.kind != "lti":
        return None
    lengths = lengths_of(graph, inputs)
    states = state_reads(graph, recurrence)
    with torch.no_grad(), double_precision():
        step = _Step(graph, recurrence, inputs, lengths, states)
        if step.size == 0 or step.size > WIDEST:
            return None
        rest = step.driven(0.0)
        zero = step.next(torch.zeros(step.size, dtype=step.dtype), rest)
        basis = torch.eye(step.size, dtype=step.dtype)
        matrix = torch.stack([step.next(row, rest) - zero for row in basis], 1)
        if not bool(torch.isfinite(matrix).all()):
            return None
        found = torch.linalg.eigvals(matrix)
        drive = step.next(torch.zeros(step.size, dtype=step.dtype), step.driven(1.0)) - zero
        rows = [drive]
        for _ in range(_RESPONSE - 1):
            rows.append(matrix @ rows[-1])
        response = torch.stack(rows, 1)  # (size, steps)
        magnitude = response.abs().nan_to_num(0.0, posinf=0.0).amax(1)
        largest = magnitude.argsort(descending=True)[:_SHOWN]
        curves = response[largest].real.tolist()
    return Dynamics([complex(v) for v in found.tolist()], curves)


class _Step:
    """One step as a function of a vector: the state's first row along every axis of a named size."""

    def __init__(
        self,
        graph: Graph,
        r: Recurrence,
        inputs: Mapping[str, Tensor],
        lengths: Mapping[str, int],
        states: Sequence[Use],
    ) -> None:
        self.graph, self.r, self.lengths, self.states = graph, r, lengths, states
        by_name = graph.by_name()
        reads = {u for m in r.members for u in by_name[m].uses() if u.name not in r.members or u.delay}
        outside = sorted(reads - set(states), key=str)
        self.drives = [u for u in outside if u.name in by_name and by_name[u.name].time is not None]
        still = [u for u in outside if u not in self.drives]
        values, _ = interpret(replace(graph, outputs=tuple(still), effects=()), dict(inputs), wide=True)
        self.fixed = dict(zip(still, values, strict=True))
        self.types = {u.name: by_name[u.name].type for u in (*states, *self.drives)}
        self.parts: list[tuple[Use, tuple[Any, ...], int]] = []
        self.size = 0
        self.dtype = torch.float64
        for use in states:
            type_ = self.types[use.name]
            assert isinstance(type_, Type)
            rows = tuple(slice(None) if isinstance(d, int) else 0 for d in type_.shape)
            count = 1
            for d in type_.shape:
                count *= d if isinstance(d, int) else 1
            self.parts.append((use, rows, count))
            self.size += count
            if type_.dtype.startswith("c"):
                self.dtype = torch.complex128

    def _full(self, name: str, value: float) -> Tensor:
        type_ = self.types[name]
        assert isinstance(type_, Type)
        kind: torch.dtype = getattr(torch, LONG.get(type_.dtype, type_.dtype))
        if kind.is_floating_point or kind.is_complex:
            kind = torch.complex128 if kind.is_complex else torch.float64
        return torch.full([evaluate(d, self.lengths) for d in type_.shape], value, dtype=kind)

    def driven(self, value: float) -> dict[Use, Any]:
        return self.fixed | {u: self._full(u.name, value) for u in self.drives}

    def next(self, vector: Tensor, rest: Mapping[Use, Any]) -> Tensor:
        given: dict[Use, Any] = {}
        start = 0
        for use, rows, count in self.parts:
            full = self._full(use.name, 0.0).to(self.dtype)
            full[rows] = vector[start : start + count].reshape(full[rows].shape)
            given[use] = full if self.dtype.is_complex else full.real
            start += count
        made = run_step(self.graph, self.r.members, {**rest, **given}, self.lengths)
        # what is read two steps back is next what is now read one step back
        parts = [
            (made[use.name] if use.delay == 1 else given[Use(use.name, use.delay - 1)])[rows].reshape(-1).to(self.dtype)
            for use, rows, _ in self.parts
            if use.delay == 1 or Use(use.name, use.delay - 1) in given
        ]
        return torch.cat(parts)


def block_errors(wanted: Any, found: Any, steps: int) -> tuple[list[float], list[str], float]:
    """The largest error of each block of time, its label, and what is allowed: rounding of the largest number."""
    count = min(BLOCKS, steps)
    bounds = [round(i * steps / max(count, 1)) for i in range(count + 1)]
    values = [0.0] * count
    allowed = 0.0
    for a, b in zip(pytree.tree_leaves(wanted), pytree.tree_leaves(found), strict=True):
        if not isinstance(a, Tensor) or not a.is_floating_point() or steps not in a.shape:
            continue
        axis = list(a.shape).index(steps)
        error = (a - b).detach().abs().to(torch.float64).movedim(axis, 0).reshape(steps, -1).amax(1)
        for i, (start, end) in enumerate(pairwise(bounds)):
            values[i] = max(values[i], float(error[start:end].amax()))
        size = float(a.detach().abs().amax()) if a.numel() else 0.0
        allowed = max(allowed, 2e3 * torch.finfo(a.dtype).eps * size)
    return values, [f"t = {a} .. {b - 1}" for a, b in pairwise(bounds)], allowed
