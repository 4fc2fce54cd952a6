"""Claims: what the record of a recurrence says, tested on numbers.

A wrong record changes no result until a later pass acts on it; tested where it is written, it is blamed on the pass
that wrote it. A claim that holds passes for every draw; one that does not fails for almost every draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import networkx as nx
import torch
from torch import Tensor

from linrec.debug.draws import double_precision, lengths_at
from linrec.dtypes import LONG
from linrec.errors import VerificationError
from linrec.interpret import run_step
from linrec.ir import Graph, Recurrence, Type, Use
from linrec.linear.analysis import state_reads
from linrec.sizes import evaluate

ALLOWED = 1e-9  # relative, in double precision
_INVARIANT = ("final", "convolution")  # forms of recurrences whose coefficients do not vary


def check_claims(old: Graph, new: Graph) -> int:
    """Test every record that `new` has and `old` has not; how many. Raises VerificationError (LR5003)."""
    fresh = [r for r in new.recurrences if r not in old.recurrences]
    for recurrence in fresh:
        for claim in (*_shape(new, recurrence), *_form(new, recurrence), *_numbers(new, recurrence)):
            raise VerificationError(
                "LR5003", f"{recurrence.name}: {claim}", loop=recurrence.name,
                help="the record of the recurrence is wrong: a later pass would act on it",
            )  # fmt: skip
    return len(fresh)


# ---- what can be read off the graph ----


def _shape(graph: Graph, r: Recurrence) -> Iterator[str]:
    """Members hold the whole cycle, states are what is read back, outputs what the rest reads."""
    by_name, members = graph.by_name(), set(r.members)
    for name in (*r.states, *r.outputs):
        if name not in members:
            yield f"%{name} is no member"
    delayed = {u.name for m in r.members for u in by_name[m].uses() if u.delay and u.name in members}
    if delayed != set(r.states):
        yield f"its states are {_listed(delayed)}, not {_listed(r.states)}"
    edges = graph.edges()
    for component in nx.strongly_connected_components(edges):
        if component & set(r.states) and not component <= members:
            yield f"{_listed(component - members)} is on its cycle and is no member"
    dependent = set(r.states).union(*(nx.descendants(edges, s) for s in r.states)) & members
    readers, roots = graph.readers(), graph.roots()
    read = {m for m in dependent if m in roots or any(o.result not in members for o in readers.get(m, []))}
    if not read <= set(r.outputs):
        yield f"{_listed(read - set(r.outputs))} is read by others and is no output"


def _form(graph: Graph, r: Recurrence) -> Iterator[str]:
    """A form exists for what it is chosen for."""
    if r.form in ("", "sequential"):
        return
    if r.kind not in ("lti", "ltv"):
        yield f"form '{r.form}' for a recurrence that is {r.kind}"
    if r.form in _INVARIANT and r.kind != "lti":
        yield f"form '{r.form}' needs coefficients that do not vary"
    if r.form == "final":
        members = set(r.members)
        for reader in (o for m in r.outputs for o in graph.readers().get(m, []) if o.result not in members):
            if reader.kind != "last":
                yield f"form 'final', but %{reader.result} reads more than the last step"


def _listed(names: object) -> str:
    return ", ".join(f"%{n}" for n in sorted(names)) or "nothing"  # type: ignore[call-overload]


# ---- what numbers can refute ----


def _numbers(graph: Graph, r: Recurrence) -> Iterator[str]:
    if r.kind not in ("lti", "ltv"):
        return
    with double_precision():
        probe = _Probe(graph, r)
        if r.semiring != "sum-product":
            yield from probe.affine_over(r.semiring)
            return
        yield from probe.linear()
        if r.kind == "lti":
            yield from probe.invariant()
        if r.structure in ("scalar", "diagonal"):
            yield from probe.diagonal()
        yield from probe.folded()


class _Probe:
    """One step of a recurrence as a function of its state and of what drives it."""

    def __init__(self, graph: Graph, recurrence: Recurrence) -> None:
        self.graph, self.r = graph, recurrence
        self.by_name = graph.by_name()
        self.members = set(recurrence.members)
        self.lengths = lengths_at(graph, 3)
        self.generator = torch.Generator().manual_seed(3)
        self.states = state_reads(graph, recurrence)
        self.types = {i.name: i.type for i in graph.inputs}
        self.types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
        edges = graph.edges().subgraph(self.members)
        self.cycle = {n for c in nx.strongly_connected_components(edges) if c & set(recurrence.states) for n in c}
        reads = {u for m in recurrence.members for u in self.by_name[m].uses() if u.name not in self.members or u.delay}
        self.reads = sorted(reads - set(self.states), key=str)
        self.signals = {u for u in self.reads if u.name in self.by_name and self.by_name[u.name].time is not None}

    def drawn(self, use: Use) -> Tensor:
        """Random numbers of the type of a value."""
        found = self.types[use.name]
        shape = [evaluate(d, self.lengths) for d in found.shape]
        dtype: torch.dtype = getattr(torch, LONG.get(found.dtype, found.dtype))
        if dtype is torch.bool:
            return torch.rand(shape, generator=self.generator) < 0.5
        if not dtype.is_floating_point and not dtype.is_complex:
            return torch.randint(0, 2, shape, generator=self.generator, dtype=dtype)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, generator=self.generator, dtype=wide)

    def rest(self) -> dict[Use, Tensor]:
        return {u: self.drawn(u) for u in self.reads}

    def state(self) -> dict[Use, Tensor]:
        return {u: self.drawn(u) for u in self.states}

    def step(self, rest: Mapping[Use, Tensor], state: Mapping[Use, Tensor]) -> dict[str, Tensor]:
        found = run_step(self.graph, self.r.members, {**rest, **state}, self.lengths)
        return {s: found[s] for s in self.r.states}

    def affine_over(self, semiring: str) -> Iterator[str]:
        """f of two mixed states is the mix of their f, where mixing is that of the semiring."""
        mix = _MIXES.get(semiring)
        rest, s, other = self.rest(), self.state(), self.state()
        if mix is None or any(not v.is_floating_point() for v in s.values()):
            return
        both = self.step(rest, {k: mix(v, other[k]) for k, v in s.items()})
        one, two = self.step(rest, s), self.step(rest, other)
        for name in self.r.states:
            if _far(both[name], mix(one[name], two[name])):
                yield f"{self.r.kind} over {semiring}, but %{name} is not affine in the state"

    def linear(self) -> Iterator[str]:
        """f(s + d) - f(s) is the same for every s, and is what the derivative of f says."""
        rest = self.rest()
        s, other, d = self.state(), self.state(), self.state()
        for values in (s, other, d):
            for use, value in values.items():
                if not value.is_floating_point() and not value.is_complex():
                    return
                values[use] = value.requires_grad_()
        moved = [
            {k: a - b for (k, a), b in zip(self.step(rest, _sum(p, d)).items(), self.step(rest, p).values(), strict=True)}
            for p in (s, other)
        ]  # fmt: skip
        now = self.step(rest, s)
        for name in self.r.states:
            if _far(moved[0][name], moved[1][name], now[name]):
                yield f"{self.r.kind}, but %{name} is not affine in the state"
                return
        weights = {k: torch.randn(v.shape, generator=self.generator, dtype=v.dtype) for k, v in now.items()}
        total = _real_sum(now, weights)
        if not total.requires_grad:
            slope = torch.zeros(())
        else:
            found = torch.autograd.grad(total, list(s.values()), allow_unused=True)
            slope = _real_sum(
                {str(i): g for i, g in enumerate(found) if g is not None},
                {str(i): v for i, v in enumerate(d.values())},
            )
        if _far(slope, _real_sum(moved[0], weights)):
            yield f"{self.r.kind}, but its gradient is not that of an affine step"

    def invariant(self) -> Iterator[str]:
        """What the state contributes does not depend on the signals read beside it."""
        one = self.rest()
        two = {u: self.drawn(u) if u in self.signals else v for u, v in one.items()}
        s, other = self.state(), self.state()
        a, b = (
            {k: x - y for (k, x), y in zip(self.step(rest, s).items(), self.step(rest, other).values(), strict=True)}
            for rest in (one, two)
        )
        for name in self.r.states:
            if _far(a[name], b[name]):
                yield f"lti, but what %{name} has of the state varies over time"

    def diagonal(self) -> Iterator[str]:
        """One number of the state reaches only the same number of the next state."""
        if len(self.states) != 1:
            return
        (use,) = self.states
        rest, s = self.rest(), self.state()
        if not s[use].numel():
            return
        place = int(torch.randint(s[use].numel(), (), generator=self.generator))
        bumped = s[use].clone()
        bumped.view(-1)[place] += 1
        name = use.name
        moved = self.step(rest, {use: bumped})[name] - self.step(rest, s)[name]
        moved.view(-1)[place] = 0
        if float(moved.abs().amax()) > ALLOWED:
            yield f"{self.r.structure}, but numbers of %{name} mix"

    def folded(self) -> Iterator[str]:
        """Members beside the cycle are affine in the signals they read."""
        for name in self.r.members:
            op = self.by_name[name]
            uses = [u for u in dict.fromkeys(op.uses()) if u.name in self.by_name and self.by_name[u.name].time]
            if name in self.cycle or not uses or not isinstance(op.type, Type):
                continue
            fixed = {u: self.drawn(u) for u in dict.fromkeys(op.uses()) if u not in uses}
            p, q = ({u: self.drawn(u) for u in uses} for _ in range(2))
            line = [_sum(p, {u: (q[u] - p[u]) * w for u in uses}) for w in (0.0, 1.0, 2.0)]
            f = [run_step(self.graph, [name], {**fixed, **at}, self.lengths)[name] for at in line]
            (a, b) = (y - x for x, y in pairwise(f))
            if _far(a, b):
                yield f"%{name} is a member, but is not affine in what it reads"


def _sum(a: Mapping[Use, Tensor], b: Mapping[Use, Tensor]) -> dict[Use, Tensor]:
    return {k: v + b[k] for k, v in a.items()}


def _real_sum(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    # Re <w, v>, the inner product under which torch's gradient of a real function of complex numbers is its gradient
    total = torch.zeros((), dtype=torch.float64)
    for key, value in values.items():
        product = weights[key].conj() * value
        total = total + (product.real if product.is_complex() else product).sum()
    return total


def _far(a: Tensor, b: Tensor, *beside: Tensor) -> bool:
    """Do two values differ by more than rounding of numbers of their size, or of those `beside`?"""
    if not a.numel() or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return False  # numbers that the program has no meaning for refute nothing
    size = max(1.0, *(float(x.detach().abs().amax()) for x in (a, b, *beside)))
    return float((a - b).detach().abs().amax()) > ALLOWED * size


def _log_mean(a: Tensor, b: Tensor) -> Tensor:
    return torch.logaddexp(a, b) - math.log(2.0)


# an offset stays as it is when two values that hold it are mixed
_MIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max-plus": torch.maximum,
    "min-plus": torch.minimum,
    "log-sum-exp": _log_mean,
}
