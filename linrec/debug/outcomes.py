"""Outcomes: what a graph computes for one draw, gradients included, and whether two of them agree.

Exact means bit by bit, NaN equal to NaN. Otherwise the difference may be rounding in double precision: some
thousands of epsilons of the largest number, the same for every draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linrec.debug.draws import Draw, double_precision, draw
from linrec.emit.operators import KERNELS
from linrec.errors import VerifyError
from linrec.interpret import interpret
from linrec.ir import Graph, Op, Type, Use
from linrec.sizes import evaluate, names_of

ROUNDING = 4e3  # epsilons of the largest number that reassociation may cost at bounded lengths
_UNTYPED = frozenset(KERNELS) | {"alias"}  # kernels have results that the language has no type for


@dataclass(frozen=True)
class Outcome:
    """Values by what they are, "output 0", "effect h", and gradients by input; None where there is no gradient."""

    values: dict[str, Any]
    gradients: dict[str, Tensor | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Where two outcomes differ, and by how much; `allowed` is 0 where they must be equal."""

    what: str
    error: float
    allowed: float
    code: str  # LR5001 values, LR5002 gradients

    def __str__(self) -> str:
        return f"{self.what}: error {self.error:.1e}, allowed {self.allowed:.1e}"


def outcome(graph: Graph, chosen: Draw, *, gradients: bool = True) -> Outcome:
    """Interpret a graph step by step in double precision, and differentiate a weighted sum of its outputs.

    Raises whatever its operators raise, and VerifyError (LR5004) for a value whose type is not the declared one.
    """
    given = draw(graph, chosen)
    lengths = {n: v for n, v in _solved(graph, given).items()}
    leaves = {
        name: x.requires_grad_() if gradients and (x.is_floating_point() or x.is_complex()) else x
        for name, x in given.items()
    }
    with double_precision(chosen.seed), torch.set_grad_enabled(gradients):
        outputs, effects = interpret(
            graph, leaves, wide=True, kernels=KERNELS, watch=lambda op, value: _check_type(op, value, lengths)
        )
        flat = {f"output {i}": leaf for i, leaf in enumerate(pytree.tree_leaves(outputs))}
        flat |= {f'effect "{path}"': value for path, value in effects.items()}
        values = {k: v.detach() if isinstance(v, Tensor) else v for k, v in flat.items()}
        twice = (chosen.steps, chosen.kind) == (2, "reals")
        return Outcome(values, _gradients(flat.values(), leaves, twice=twice) if gradients else {})


def _solved(graph: Graph, given: Mapping[str, Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for i in graph.inputs:
        for dim, actual in zip(i.type.shape, given[i.name].shape, strict=True):
            if not isinstance(dim, int) and len(dim.names) == 1 and dict(dim.terms).get(tuple(dim.names)) == 1:
                found.setdefault(next(iter(dim.names)), actual - dict(dim.terms).get((), 0))
    return found


def _check_type(op: Op, value: Any, lengths: Mapping[str, int]) -> None:
    if op.kind in _UNTYPED or not isinstance(op.type, Type) or not isinstance(value, Tensor):
        return
    if any(not names_of(d) <= lengths.keys() for d in op.type.shape):
        return
    wanted = tuple(evaluate(d, lengths) for d in op.type.shape)
    # what is made of a number, an initial state of 0 say, may still have to be broadcast
    spread = (1,) * (len(wanted) - value.dim()) + tuple(value.shape)
    if len(spread) != len(wanted) or any(have not in (1, want) for have, want in zip(spread, wanted, strict=True)):
        raise VerifyError(
            "LR5004", f"%{op.result} is declared {op.type}, here {list(wanted)}, and is {list(value.shape)}",
            help="a pass gave an op a type that it does not have",
        )  # fmt: skip


def _gradients(values: Iterable[Any], leaves: Mapping[str, Tensor], *, twice: bool) -> dict[str, Tensor | None]:
    """By input; with `twice` those of a weighted sum of the gradients as well."""
    named = {name: x for name, x in leaves.items() if x.requires_grad}
    found: dict[str, Tensor | None] = dict.fromkeys(named)
    total = _weighed(values)
    if total is None or not named:
        return found
    first = torch.autograd.grad(total, list(named.values()), allow_unused=True, create_graph=twice)
    found |= zip(named, (g if g is None else g.detach() for g in first), strict=True)
    total = _weighed(first) if twice else None
    if total is not None:
        second = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        found |= {f"{name}, twice": g for name, g in zip(named, second, strict=True)}
    return found


def _weighed(values: Iterable[Any]) -> Tensor | None:
    """A weighted sum of what has a gradient, None if nothing has."""
    generator = torch.Generator().manual_seed(7)
    total: Tensor | None = None
    for value in values:
        if isinstance(value, Tensor) and value.requires_grad:
            flat = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
            weights = torch.randint(1, 4, flat.shape, generator=generator).to(torch.float64)
            total = (flat * weights).sum() + (0.0 if total is None else total)
    return total


def difference(old: Outcome, new: Outcome, *, exact: bool) -> Difference | None:
    """The first difference beyond what is allowed, None if the two agree."""
    if list(old.values) != list(new.values):
        return Difference("other outputs or effects", float("inf"), 0.0, "LR5001")
    for what, value in old.values.items():
        found = _apart(value, new.values[what], exact, 0.0)
        if found is not None:
            return Difference(what, *found, "LR5001")
    # gradients are sums over readers, which any pass may reorder; one of them may cancel to nothing
    largest = max((_largest(g) for g in old.gradients.values() if g is not None), default=0.0)
    for what in old.gradients | new.gradients:
        found = _apart(*_present(old.gradients.get(what), new.gradients.get(what)), False, largest)
        if found is not None:
            return Difference(f"gradient of %{what}", *found, "LR5002")
    return None


def sound(graph: Graph, old: Outcome, new: Outcome) -> tuple[Outcome, Outcome]:
    """Of the results for a broken draw, the steps that come before anything may be bad.

    The number that is not finite stands in the last step; where it goes from there, a dense form may spread it to
    outputs that the loop does not. A step that holds something bad in any result of `old` is left out of all.
    """
    read = [*pytree.tree_leaves(list(graph.outputs)), *(use for _, use in graph.effects)]
    axes = {
        what: axis for what, use in zip(old.values, read, strict=True) if (axis := _time_axis(graph, use)) is not None
    }
    axes = {what: axis for what, axis in axes.items() if isinstance(old.values[what], Tensor)}
    good: dict[int, Tensor] = {}
    for what, axis in axes.items():
        value = old.values[what]
        fine = torch.isfinite(value).movedim(axis, 0).reshape(value.shape[axis], -1).all(1)
        fine[-1:] = False
        good[len(fine)] = good.get(len(fine), fine) & fine

    def kept(found: Outcome) -> Outcome:
        values = {what: found.values[what].movedim(axis, 0) for what, axis in axes.items() if what in found.values}
        return Outcome({what: v[good[len(v)]] if len(v) in good else v for what, v in values.items()})

    return kept(old), kept(new)


def _time_axis(graph: Graph, use: Any) -> int | None:
    """The axis of a result whose length goes with T."""
    types = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}
    type_ = types.get(use.name) if isinstance(use, Use) else None
    return next((k for k, d in enumerate(type_.shape) if "T" in names_of(d)), None) if isinstance(type_, Type) else None


def worst(old: Outcome, new: Outcome) -> float:
    """The largest error relative to the largest number of its tensor."""
    found = 0.0
    for what, value in old.values.items():
        other = new.values.get(what)
        if isinstance(value, Tensor) and isinstance(other, Tensor) and value.shape == other.shape and value.numel():
            if value.dtype == torch.bool:
                continue
            size = float(value.abs().nan_to_num(0.0).amax())
            error = float((value - other).abs().nan_to_num(0.0).amax())
            found = max(found, error / size if size else error)
    return found


def is_finite(found: Outcome) -> bool:
    """Are all values finite?"""
    return all(bool(torch.isfinite(v).all()) for v in found.values.values() if isinstance(v, Tensor))


def _present(a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """No gradient is a gradient of zero."""
    if a is None and b is not None:
        return torch.zeros_like(b), b
    return a, torch.zeros_like(a) if b is None and a is not None else b


def _largest(a: Tensor) -> float:
    finite = a[torch.isfinite(a)]
    return float(finite.abs().amax()) if finite.numel() else 0.0


def _apart(a: Any, b: Any, exact: bool, largest: float) -> tuple[float, float] | None:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None if type(a) is type(b) and a == b else (float("inf"), 0.0)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf"), 0.0
    same = (a == b) | ((a != a) & (b != b))
    if bool(same.all()):
        return None
    if not a.is_floating_point() and not a.is_complex():
        return float("inf"), 0.0
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not bool((same | finite).all()):
        return float("inf"), 0.0
    error = float((a - b)[finite].abs().amax())
    allowed = 0.0 if exact else ROUNDING * torch.finfo(torch.float64).eps * max(_largest(a), largest, 1e-30)
    return None if error <= allowed else (error, allowed)
