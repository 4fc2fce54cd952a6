"""Reduction: fewer states for a time-invariant recurrence, with a bound on the error, as an opt-in for inference.

Balanced truncation (Moore 1981; Glover 1984). For s[k] = A s[k-1] + G w[k], y[k] = C s[k-1] + D w[k] with A stable, let
P = A P A' + G G' and Q = A' Q A + C' C. The Hankel singular values are the square roots of the eigenvalues of P Q; the
system kept on the r largest of them, with transfer function H_r, has

    ||H - H_r||_inf <= 2 (sigma_{r+1} + ... + sigma_n),    so    ||y - y_r||_2 <= that bound * ||w||_2

for every input w of finite energy, from the zero state. With tolerance 0 only what no input reaches or no output sees
is dropped (a minimal realisation, to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from linrec.errors import StateError
from linrec.ir import Graph, Input, Op, Type, Use, rename
from linrec.manager import Context
from linrec.passes import default_pipeline
from linrec.program import Form, Recurring
from linrec.recurrence import RecurrentModule
from linrec.sizes import size

Matrix = NDArray[Any]
LARGEST = 2048  # Gramians take O(n^3): minutes beyond


@dataclass(frozen=True)
class Truncated:
    """A group's system on its largest Hankel singular values, and the bound on what that changes."""

    A: Matrix
    G: Matrix
    C: Matrix
    values: NDArray[np.float64]
    bound: float


def balanced_truncation(A: Matrix, G: Matrix, C: Matrix, tolerance: float) -> Truncated:
    """The smallest balanced truncation whose error bound is at most `tolerance`.

    A (n, n), G (n, p), C (q, n), real or complex, A stable; O(n^3). Raises ValueError if A is not stable.
    """
    if np.abs(np.linalg.eigvals(A)).max(initial=0.0) >= 1:
        raise ValueError("the transition is not stable, so its error has no bound")
    reach = _root(scipy.linalg.solve_discrete_lyapunov(A, G @ G.conj().T))
    seen = _root(scipy.linalg.solve_discrete_lyapunov(A.conj().T, C.conj().T @ C))
    left, values, right = np.linalg.svd(seen.conj().T @ reach)
    tail = 2 * np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])  # tail[r]: the bound if r are kept
    # below this a value is rounding, of Gramians that hold its square
    noise = values.max(initial=0.0) * np.sqrt(np.finfo(np.float64).eps)
    kept = min(int(np.argmax(tail <= tolerance)), int((values > noise).sum()))
    scale = 1 / np.sqrt(values[:kept])
    into = reach @ right.conj().T[:, :kept] * scale  # s = into z, z = onto s, onto into = 1
    onto = (scale[:, None] * left.conj().T[:kept]) @ seen.conj().T
    return Truncated(onto @ A @ into, onto @ G, C @ into, values, float(tail[kept]))


def _root(gramian: Matrix) -> Matrix:
    """X with X X' = gramian, for one that is positive semidefinite up to rounding."""
    values, vectors = np.linalg.eigh((gramian + gramian.conj().T) / 2)
    found: Matrix = vectors * np.sqrt(np.clip(values, 0, None))
    return found


@dataclass(frozen=True)
class Summary:
    """What happened to one recurrence: states a group before and after, and the bound."""

    name: str
    before: int
    after: int
    bound: float

    def __str__(self) -> str:
        return f"{self.name}: order {self.before} -> {self.after}, error at most {self.bound:.1e} of the drive's size"


class ReducedModule(RecurrentModule):
    """A recurrent form with fewer states: a snapshot of the model, to be made anew after training or casting."""

    summary: tuple[Summary, ...] = ()

    def fit(self, tensors: Sequence[Tensor]) -> Recurring:
        """The program as it was reduced. Raises StateError (LR4001) if the model is another now."""
        if self._current.key(tuple((x.dtype, x.device) for x in tensors)) not in self._made:
            raise StateError(
                "LR4001", "the model or the element type changed since it was reduced", help="reduce it again: reduce(net.recurrent())"
            )  # fmt: skip
        return self._current


def reduce(rnn: RecurrentModule, tolerance: float = 1e-3) -> ReducedModule:
    """The recurrent form with its time-invariant recurrences cut down, each to an error bound of `tolerance`.

    The bound is the largest gain from the recurrence's drive to what is read of it, in the 2-norm over time; it is in
    `.summary`, one entry for each recurrence that became smaller. What is not time-invariant, not stable, starts from
    a state other than zero or would not become smaller stays. The coefficients are those of this moment.

    Cost: O(n^3) once, n the number of states of a group; a step then costs O(r^2 + r p + q r).
    """
    program = rnn.program
    compiled = program.compiled
    count = program.arity
    frozen = frozenset(program.captured)
    graph = default_pipeline().run(compiled.captured.graph, Context({"T": 64}, frozen, "chunked"))
    given = [x for x in _tensors(program)]
    matrices: list[tuple[str, Tensor]] = []
    summaries: list[Summary] = []
    # a response to initial states or constants runs in coordinates that a reduced state does not have
    fixed = {
        u.name
        for op in graph.ops
        if op.kind == "lti_free" and (op.args[0], op.args[3]) != (None, None)
        for u in op.uses()
    }
    for op in [op for op in graph.ops if op.kind == "lti_chunked"]:
        name = op.result.rpartition(".lti")[0] or op.result
        if any(isinstance(a, Use) and a.name in fixed for a in op.args[1:5]):
            continue
        found = _reduced(graph, op, given, program.values(), tolerance)
        if found is None:
            continue
        tensors, order, bound = found
        summaries.append(Summary(name, order, tensors["A"].shape[-1], bound))
        matrices += [(f"{name}.{letter}", value) for letter, value in tensors.items()]
        graph = _stepped(graph, op, name, tensors)
    inputs = tuple(Input(name, Type(_short(value), tuple(value.shape)), "captured", "") for name, value in matrices)
    graph = replace(graph, inputs=(*graph.inputs[: count + len(program.getters)], *inputs), recurrences=())
    graph = _renamed(graph)
    captured = replace(compiled.captured, graph=graph) if summaries else compiled.captured
    getters = [*compiled.getters, *(_constant(value) for _, value in matrices)] if summaries else compiled.getters
    new = replace(compiled, captured=captured, getters=getters)
    made = ReducedModule(rnn._engine, new)
    made.summary = tuple(summaries)
    return made


def _renamed(graph: Graph) -> Graph:
    """Names that passes gave are theirs to give again: `r0.einsum4` becomes `small.r0.einsum4`."""
    names = {op.result: f"small.{op.result}" for op in graph.ops if "." in op.result}
    graph = rename(graph, names)
    return replace(graph, ops=tuple(replace(op, result=names.get(op.result, op.result)) for op in graph.ops))


def _tensors(program: Recurring) -> list[Tensor]:
    args, kwargs = program.example
    return [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]


def _reduced(
    graph: Graph, op: Op, given: list[Tensor], captured: list[Any], tolerance: float
) -> tuple[dict[str, Tensor], int, float] | None:
    """The matrices of a smaller system for all groups; None if there is none."""
    values = Form.of(replace(graph, outputs=op.args[1:5], effects=()), ())
    with torch.no_grad():
        a, g, c, d = values(*given, *captured)
    groups, n = a.shape[0], a.shape[-1]
    if n > LARGEST:
        return None
    wide = [x.detach().cpu().to(torch.complex128 if x.is_complex() else torch.float64).numpy() for x in (a, g, c)]
    try:
        parts = [balanced_truncation(wide[0][i], wide[1][i], wide[2][i], tolerance) for i in range(groups)]
    except (ValueError, np.linalg.LinAlgError):
        return None
    r = max(len(p.A) for p in parts)
    if r >= n:
        return None

    def padded(arrays: list[Matrix], rows: int, columns: int) -> Tensor:
        whole = np.zeros((groups, rows, columns), arrays[0].dtype)
        for i, array in enumerate(arrays):
            whole[i, : array.shape[0], : array.shape[1]] = array
        return torch.from_numpy(whole).to(a.dtype).to(a.device)

    tensors = {
        "A": padded([p.A for p in parts], r, r), "G": padded([p.G for p in parts], r, g.shape[-1]),
        "C": padded([p.C for p in parts], c.shape[1], r), "D": d.detach(),
    }  # fmt: skip
    return tensors, n, max(p.bound for p in parts)


def _stepped(graph: Graph, op: Op, name: str, tensors: dict[str, Tensor]) -> Graph:
    """The kernel call as a loop again, over the smaller state: s' = A s + G w, y = C s + D w."""
    drive = op.args[0]
    assert isinstance(drive, Use) and isinstance(op.type, Type)
    time = next(t for t in graph.times if t.trip == size("T") and t.direction == "forward")
    batch, _, groups, q = op.type.shape
    r, p = tensors["A"].shape[-1], tensors["G"].shape[-1]
    dtype = _short(tensors["A"])
    state, out, into = Type(dtype, (batch, groups, r)), Type(dtype, (batch, groups, q)), Type(dtype, (batch, groups, p))

    def product(result: str, letter: str, of: Use, type_: Type) -> Op:
        return Op(f"{name}.{result}", "einsum", ("gij,bgj->bgi", (Use(f"{name}.{letter}"), of)), (), type_, time.name)

    w, s = Use(f"{name}.w"), f"{name}.state"
    ops = [
        Op(w.name, "signal", (drive, 1, 0, 1), (), into, time.name),
        product("moved", "A", Use(s, 1), state), product("driven", "G", w, state),
        Op(s, "add", (Use(f"{name}.moved"), Use(f"{name}.driven")), (), state, time.name, (0.0,)),
        product("read", "C", Use(s, 1), out), product("through", "D", w, out),
        Op(f"{name}.y", "add", (Use(f"{name}.read"), Use(f"{name}.through")), (), out, time.name),
        Op(op.result, "stack", (Use(f"{name}.y"), 1), (), op.type),
    ]  # fmt: skip
    place = next(i for i, o in enumerate(graph.ops) if o.result == op.result)
    rest = tuple(_offset(o) for o in graph.ops[place + 1 :])
    return replace(graph, ops=(*graph.ops[:place], *ops, *rest))


def _offset(op: Op) -> Op:
    """A response to nothing but an offset of the output, (b, g, q), is that offset at every step."""
    if op.kind != "lti_free" or (op.args[0], op.args[3]) != (None, None) or not isinstance(op.type, Type):
        return op
    offset = op.args[4]
    assert isinstance(offset, Use)
    return replace(op, kind="unsqueeze", args=(offset, 1), type=Type(op.type.dtype, (1, 1, *op.type.shape[2:])))


def _short(value: Tensor) -> str:
    from linrec.dtypes import SHORT

    return SHORT[str(value.dtype).removeprefix("torch.")]


def _constant(value: Tensor) -> Any:
    return lambda: value
