"""The laws of the compiler, tested on a user's own program.

    L1  same function: the compiled program gives the original's values and gradients, at every length
    L2  step equals sequence: folding `step` gives what all steps at once give, final state included
    L3  splitting is free: chunk by chunk with the state carried over equals running it whole

What is allowed follows from a float64 reference: three times the original's own error, plus a few epsilons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linrec.api import compile as compiled
from linrec.debug.run import optimize
from linrec.debug.tracing import trace
from linrec.emit.stateful import stateful
from linrec.errors import StateError
from linrec.ir import Graph
from linrec.sizes import Size, evaluate, names_of

LAWS = ("L1", "L2", "L3")
STEPS = (1, 2, 3, 16, 64)
_CODES = {"L1": "LR5001", "L2": "LR5006", "L3": "LR5007"}
_ROUNDING = 64.0  # epsilons of the largest number, on top of three times the loop's own error


@dataclass(frozen=True)
class Verdict:
    """One law at one length, element type and seed. `note` says why it does not apply, or where it fails."""

    law: str
    where: str
    error: float = 0.0
    allowed: float = 0.0
    holds: bool = True
    note: str = ""

    @property
    def code(self) -> str:
        """The code of a failure, "" if there is none."""
        return "" if self.holds else "LR5002" if self.law == "L1" and "gradient" in self.note else _CODES[self.law]


def check_laws(
    model: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    steps: Sequence[int] = STEPS,
    dtypes: Sequence[str] = (),
    order: int = 1,
    seeds: int = 1,
    laws: Sequence[str] = LAWS,
    forms: str = "auto",
) -> Iterator[Verdict]:
    """A verdict for each law, length, element type and seed; gradients up to `order`.

    `inputs` show the arguments; lengths, numbers and element types are drawn anew. Raises CaptureError where the call
    cannot be captured.
    """
    graph = trace(model, *inputs)
    for dtype in dtypes or ("",):
        original = _cast(model, dtype)
        made = compiled(copy.copy(original), verify="off", forms=forms)
        reference = _cast(model, "float64") if isinstance(model, nn.Module) else model
        for seed in range(seeds):
            for n in steps:
                given = drawn(inputs, graph, n, dtype, seed)
                where = f"T={n}" + f", {dtype}" * bool(dtype) + f", seed {seed}" * (seeds > 1)
                if "L1" in laws:
                    yield _same_function(original, made, reference, given, where, order)
                if n > 1:
                    yield from _recurrent(made, graph, given, where, laws, seed)


# ---- inputs ----


def _cast(model: Any, dtype: str) -> Any:
    """The model with its floating-point parameters in another type; a function is what it is."""
    if not dtype or not isinstance(model, nn.Module):
        return model
    return copy.deepcopy(model).to(getattr(torch, dtype))


def drawn(inputs: Sequence[Any], graph: Graph, steps: int, dtype: str, seed: int) -> list[Any]:
    """Arguments like `inputs` at another length."""
    generator = torch.Generator().manual_seed(7919 * seed + steps)
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    lengths: dict[str, int] = {}
    for x, i in zip(tensors, graph.inputs, strict=False):
        for actual, dim in zip(x.shape, i.type.shape, strict=True):
            if isinstance(dim, Size) and len(dim.names) == 1:
                lengths.setdefault(next(iter(dim.names)), actual - dict(dim.terms).get((), 0))
    lengths["T"] = steps
    made = []
    slots = iter(graph.inputs)
    for x in inputs:
        if not isinstance(x, Tensor):
            made.append(x)
            continue
        shape = [
            evaluate(d, lengths) if names_of(d) <= lengths.keys() else n
            for d, n in zip(next(slots).type.shape, x.shape, strict=True)
        ]
        kind = x.dtype
        if kind.is_floating_point and dtype:
            kind = getattr(torch, dtype)
        if kind.is_floating_point or kind.is_complex:
            wide = torch.complex128 if kind.is_complex else torch.float64
            made.append(torch.randn(shape, generator=generator, dtype=wide).to(x.device, kind))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator).to(x.device, kind))
    return made


# ---- L1 ----


def _same_function(
    original: Callable[..., Any],
    made: Callable[..., Any],
    reference: Callable[..., Any],
    given: list[Any],
    where: str,
    order: int,
) -> Verdict:
    wanted = _evaluated(original, given, order)
    found = _evaluated(made, given, order)
    exact = _evaluated(reference, [_wide(x) for x in given], order)
    worst = Verdict("L1", where)
    for what, value in wanted.items():
        error, allowed = _error(found.get(what), value, exact.get(what))
        if not error <= allowed:
            return Verdict("L1", where, error, allowed, False, what)
        if error >= worst.error:
            worst = Verdict("L1", where, error, allowed)
    return worst


def _evaluated(function: Callable[..., Any], given: Sequence[Any], order: int) -> dict[str, Any]:
    """Outputs, and gradients up to `order` of a fixed weighting of them with respect to inputs and parameters."""
    copies = [x.detach().clone() if isinstance(x, Tensor) else x for x in given]
    leaves = {
        f"input {i}": x.requires_grad_()
        for i, x in enumerate(copies)
        if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) and order
    }
    if isinstance(function, nn.Module) and order:
        leaves |= {name: p for name, p in function.named_parameters() if p.requires_grad}
    torch.manual_seed(0)
    flat = pytree.tree_leaves(function(*copies))
    values = {f"output {i}": x.detach() if isinstance(x, Tensor) else x for i, x in enumerate(flat)}
    terms = [x for x in flat if isinstance(x, Tensor) and x.requires_grad]
    for k in range(1, order + 1):
        if not terms:
            break
        total = sum((_weighed(x, k) for x in terms), torch.zeros((), dtype=torch.float64))
        slopes = torch.autograd.grad(total, list(leaves.values()), create_graph=k < order, allow_unused=True)
        known = {name: g for name, g in zip(leaves, slopes, strict=True) if g is not None}
        values |= {f"gradient {k} of {name}": g.detach() for name, g in known.items()}
        terms = [g for g in known.values() if g.requires_grad]
    return values


def _weighed(x: Tensor, seed: int) -> Tensor:
    # squares, so that a second derivative is not zero for what is linear
    flat = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(flat.shape, generator=generator, dtype=torch.float64).to(flat.device) + 0.5
    return (flat.to(torch.float64) * weights).square().sum() if seed == 1 else (flat.to(torch.float64) * weights).sum()


def _wide(x: Any) -> Any:
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _error(found: Any, wanted: Any, exact: Any) -> tuple[float, float]:
    """The error of `found` and what is allowed, relative to the largest number."""
    if not isinstance(wanted, Tensor):
        return (0.0, 0.0) if found == wanted else (float("inf"), 0.0)
    if not isinstance(found, Tensor) or found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf"), 0.0
    if not wanted.numel():
        return 0.0, 0.0
    if not wanted.is_floating_point() and not wanted.is_complex():
        return (0.0, 0.0) if torch.equal(found, wanted) else (float("inf"), 0.0)
    judge = exact if isinstance(exact, Tensor) and exact.shape == wanted.shape else wanted
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(found)):
        return float("inf"), 0.0
    if not bool(finite.any()):
        return 0.0, 0.0
    size = max(float(wanted[finite].abs().amax()), 1e-30)
    own = float((_wide(wanted) - _wide(judge))[finite].abs().nan_to_num(0.0).amax())
    error = float((_wide(found) - _wide(judge))[finite].abs().nan_to_num(0.0).amax())
    return error, 3 * own + _ROUNDING * torch.finfo(wanted.dtype).eps * size


# ---- L2, L3 ----


def _recurrent(
    made: Any, graph: Graph, given: list[Any], where: str, laws: Sequence[str], seed: int
) -> Iterator[Verdict]:
    wanted = [law for law in ("L2", "L3") if law in laws]
    if not wanted:
        return
    try:
        rnn = made.recurrent(*given)
        axes = stateful(optimize(graph, ("canonicalize", "cse", "hoist", "dce")))
    except StateError as error:
        yield from (Verdict(law, where, note=f"no recurrent form: {error.code}") for law in wanted)
        return
    places = iter(axes.inputs)
    along = [next(places) if isinstance(x, Tensor) else None for x in given]
    count = next((x.shape[a] for x, a in zip(given, along, strict=True) if a is not None), 0)
    if any(a is not None and x.shape[a] != count for x, a in zip(given, along, strict=True)):
        return  # arguments of T and of T + 1 steps are not taken apart step by step
    with torch.no_grad():
        whole, end = rnn(*given)
        if "L2" in laws:
            parts = _folded(lambda x, s: rnn.step(*x, state=s), given, along, [1] * count, squeeze=True)
            yield _agree("L2", where, whole, end, *parts, axes.outputs)
        if "L3" in laws:
            generator = torch.Generator().manual_seed(seed)
            cut = int(torch.randint(1, count, (), generator=generator)) if count > 1 else count
            sizes = [n for n in (cut, count - cut) if n]
            parts = _folded(lambda x, s: rnn(*x, state=s), given, along, sizes, squeeze=False)
            yield _agree("L3", f"{where} as {'+'.join(map(str, sizes))}", whole, end, *parts, axes.outputs)


def _folded(
    call: Callable[[list[Any], Any], tuple[Any, Any]],
    given: list[Any],
    along: list[int | None],
    sizes: list[int],
    *,
    squeeze: bool,
) -> tuple[list[list[Any]], Any]:
    state: Any = None
    outputs, start = [], 0
    for size in sizes:
        piece = [
            x if a is None else x.select(a, start) if squeeze else x.narrow(a, start, size)
            for x, a in zip(given, along, strict=True)
        ]
        y, state = call(piece, state)
        outputs.append(pytree.tree_leaves(y))
        start += size
    return outputs, state


def _agree(
    law: str, where: str, whole: Any, end: Mapping[str, Tensor], parts: list[list[Any]], state: Mapping[str, Tensor],
    axes: Sequence[int | str | None],
) -> Verdict:  # fmt: skip
    worst = Verdict(law, where)
    pairs: list[tuple[str, Any, Any]] = []
    for number, (value, axis) in enumerate(zip(pytree.tree_leaves(whole), axes, strict=True)):
        rows = [p[number] for p in parts]
        joined = rows[-1]
        if isinstance(axis, int) and isinstance(value, Tensor):
            joined = torch.stack(rows, axis) if law == "L2" else torch.cat(rows, axis)
        pairs.append((f"output {number}", joined, value))
    pairs += [(f"state {name}", state.get(name), value) for name, value in end.items()]
    for what, found, wanted in pairs:
        error, allowed = _error(found, wanted, None)
        allowed *= 16  # two roundings of the same numbers, neither of them the reference
        if not error <= allowed:
            return Verdict(law, where, error, allowed, False, what)
        if error >= worst.error:
            worst = Verdict(law, where, error, allowed)
    return worst
