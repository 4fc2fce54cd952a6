"""Costs: what each form of a recurrence takes, by formulas in its sizes.

A form does floating-point operations of four sorts, moves bytes, and issues operators that wait for each other; seconds
follow from a machine's rates. Each formula is written once, for numbers and for sympy symbols alike, so that what is
printed is what was computed. Sizes of a time-invariant recurrence (linrec/linear/system.py):

    B batch, T steps, g groups, n states, p drives, q outputs, m operators in a step

of a time-varying one (linrec/linear/varying.py): E elements that pass, n states that mix, L transitions a step that
differ (1 where all elements share one), F coefficients that the loop reads a step; of matrix states
(linrec/linear/rank_one.py): E elements, k by v states, r updates.

The model is deterministic: the same sizes and the same machine give the same form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

CHUNK = 64  # steps of a chunk in plain operators (linrec/kernels/lti.py)
ONE_BY_ONE = 400  # from so many operations on, torch does complex products of small matrices one by one
LONG = 4096  # a form that does not beat the loop over so many steps beats it at no length
CACHED = 1 << 27  # bytes that a form moves through memory which allocators use again
CLEARLY = 1.5  # so many times as fast the loop must be
TRAINED = 4.5  # operators that autograd makes of one of a loop, and what keeping its graph takes
LEARNT = 1.25  # times as many where the coefficients of a step are learnt
PARALLEL = 2.0  # the same for one of a parallel form: they are few, and their work is as much again
BACKWARDS = 5  # times as long as a response takes its gradient, beside a form twice as long: many small products
UNTAMED = 0.2  # how often a response grows too much for FFTs
ROW = 48  # steps of a row where one channel goes in and one out (linrec/kernels/single.py)
Response = Literal["kept", "read", "built"]  # between calls; from kept responses of the states; from the coefficients


@dataclass(frozen=True)
class Machine:
    """Rates of a machine (linrec/calibration.py measures them); the shipped ones are those of a server CPU's core."""

    matmul: float = 95e9  # operations a second in large matrix products, single precision
    small: float = 45e9  # operations a second in products of many small matrices
    fft: float = 24e9  # operations a second in FFTs
    vector: float = 10e9  # operations a second in elementwise work
    cache: float = 12e9  # bytes a second rearranged in cache
    memory: float = 5e9  # bytes a second in memory that was not used before
    launch: float = 2e-6  # seconds an operator
    compiled: bool = True  # are the compiled kernels there?


@dataclass(frozen=True)
class Estimate:
    """Symbolic cost of one form, the seconds it comes to, and the length from which it beats the loop."""

    form: str
    flops: str
    bytes: str
    depth: str
    seconds: float
    pays_from: int | None = None


@dataclass(frozen=True)
class Work:
    """What one form does: operations by sort, bytes, and operators that wait for each other."""

    products: Any = 0
    small: Any = 0
    transforms: Any = 0
    elementwise: Any = 0
    moved: Any = 0
    depth: Any = 0

    def seconds(self, machine: Machine, slower: float) -> float:
        """On a machine, `slower` times as long an operation as in single precision."""
        busy = self.products / machine.matmul + self.small / machine.small + self.transforms / machine.fft
        reused = min(self.moved, CACHED)
        passes = max(slower * self.elementwise / machine.vector, reused / machine.cache)
        passes += (self.moved - reused) / machine.memory
        return float(slower * busy + passes + self.depth * machine.launch)

    def plus(self, other: Work) -> Work:
        """One after the other."""
        return Work(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))

    def times(self, count: Any) -> Work:
        """The same so many times."""
        return Work(*(getattr(self, f) * count for f in self.__dataclass_fields__))


class _Sizes:
    """Sizes by name, and the few functions that formulas need: of numbers, or of sympy symbols."""

    def __init__(self, values: Mapping[str, Any], log2: Any, sqrt: Any, least: Any, most: Any) -> None:
        self.__dict__.update(values)
        self.log2, self.sqrt, self.least, self.most = log2, sqrt, least, most

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no size is called {name}")


Formulas = Callable[[_Sizes], dict[str, Work]]


def _numbers(sizes: Mapping[str, float]) -> _Sizes:
    return _Sizes(sizes, math.log2, math.sqrt, min, max)


@functools.cache
def _symbols(names: tuple[str, ...]) -> _Sizes:
    import sympy

    symbols = dict(zip(names, sympy.symbols(names, positive=True), strict=True))
    return _Sizes(symbols, lambda x: sympy.log(x, 2), sympy.sqrt, sympy.Min, sympy.Max)


@functools.cache
def _texts(formulas: Formulas, names: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
    """Operations, bytes and depth of each form as printed."""
    import sympy

    def text(expression: Any) -> str:
        whole = {x: sympy.Integer(x) for x in sympy.sympify(expression).atoms(sympy.Float) if x == int(x)}
        return str(sympy.sympify(expression).xreplace(whole))

    return {
        form: (text(w.products + w.small + w.transforms + w.elementwise), text(w.moved), text(w.depth))
        for form, w in formulas(_symbols(names)).items()
    }


def _estimates(formulas: Formulas, sizes: Mapping[str, int], machine: Machine, slower: float) -> list[Estimate]:
    """Every form, cheapest first."""

    def seconds(steps: int) -> dict[str, float]:
        return {f: w.seconds(machine, slower) for f, w in formulas(_numbers({**sizes, "T": steps})).items()}

    lengths = {1 << k: seconds(1 << k) for k in range(21)}
    texts = _texts(formulas, tuple(sizes))
    found = []
    for form, taken in seconds(sizes["T"]).items():
        pays = next((t for t, s in lengths.items() if s[form] <= s["sequential"]), None)
        found.append(Estimate(form, *texts[form], taken, None if form == "sequential" else pays))
    return sorted(found, key=lambda e: e.seconds)


def is_loop_best(estimate: Callable[[Mapping[str, int]], list[Estimate]], sizes: Mapping[str, int]) -> bool:
    """Is the loop clearly the cheapest form at this length, and over many steps too?

    A short call alone decides nothing, and the loop as written issues more operators than the compiled one.
    """
    for at in (sizes, {**sizes, "T": max(sizes["T"], LONG)}):
        first, second, *_ = estimate(at)
        if first.form != "sequential" or CLEARLY * first.seconds > second.seconds:
            return False
    return True


def arithmetic(dtype: str) -> tuple[int, float]:
    """Bytes of a number, and how many times as long an operation takes as in single precision."""
    return {"f64": (8, 2.0), "c64": (8, 4.0), "c128": (16, 8.0)}.get(dtype, (4, 1.0))


# time-invariant ------------------------------------------------------------------------------------------


def estimates(
    sizes: Mapping[str, int],
    *,
    response: Response,
    final: bool,
    diagonal: bool = False,
    elementwise: bool = False,
    associative: bool = False,
    dtype: str = "f32",
    gradients: bool = False,
    machine: Machine | None = None,
) -> list[Estimate]:
    """Every form of a time-invariant recurrence, cheapest first.

    `response` says what of the impulse response is computed anew by each call, `final` that the last output alone is
    read; a `diagonal` one may be scanned as well, each state on its own, and one whose states are all read in an
    `associative` scan, which stores them; the powers of an `elementwise` transition need no products of matrices;
    `gradients` says that a backward pass follows.
    """
    machine = machine or Machine()
    width, slower = arithmetic(dtype)
    plain = sizes["q"] == sizes["n"]
    # channels of a frequency are multiplied elementwise, by a sum of few products, or by one small matrix product
    batched = sizes["p"] > 1 and sizes["B"] * sizes["p"] * sizes["q"] >= ONE_BY_ONE
    each = (1.5, 8) if batched else (0.0, 8 if sizes["p"] == 1 else 16)
    single = sizes["g"] == sizes["p"] == sizes["q"] == 1 and sizes["T"] >= 4 * ROW
    formulas = _invariant(
        response, final, diagonal, plain, each, single, width, machine.compiled, gradients, associative, elementwise
    )
    return _estimates(formulas, sizes, machine, slower)


@functools.cache
def _invariant(
    response: Response,
    final: bool,
    diagonal: bool,
    plain: bool,
    each: tuple[float, int],  # operators and operations of a frequency
    single: bool,
    width: int,
    compiled: bool,
    gradients: bool,
    associative: bool,
    elementwise: bool,
) -> Formulas:
    double = 2  # responses are built in double precision
    learnt = gradients and response == "built"
    # each step of the loop has a gradient of its coefficients to add up
    autograd = (LEARNT if learnt else 1.0) * TRAINED / PARALLEL if gradients else 1.0

    def built(x: _Sizes, steps: Any) -> Work:
        """The impulse response: powers by doubling, or of its coarse and fine halves where states are not read."""
        if elementwise:
            numbers = steps * x.g * x.q * x.p
            return Work(products=double * 2 * numbers * x.n, moved=3 * 8 * numbers, depth=40)
        if plain:
            products = 2 * steps * x.g * x.n**2 * x.p + 2 * x.g * x.n**3 * x.log2(steps)
            moved = 3 * 8 * steps * x.g * x.n * x.p
        else:
            coarse = x.sqrt(steps)
            products = 2 * coarse * x.g * x.n**2 * (x.p + x.q) + 2 * steps * x.g * x.n * x.p * x.q
            products += 2 * x.g * x.n**3 * x.log2(steps)
            moved = 3 * 8 * x.g * (coarse * x.n * (x.p + x.q) + steps * x.p * x.q)
        return Work(products=double * products, moved=moved, depth=30 + 8 * x.log2(steps))

    def prepared(x: _Sizes) -> Work:
        if response == "built":
            once = built(x, x.T)
            return once.times(BACKWARDS) if gradients and not elementwise else once
        if response == "read":
            return Work(2 * x.T * x.g * x.q * x.n * x.p, moved=width * x.T * x.g * x.p * (x.n + 2 * x.q), depth=8)
        return Work(moved=width * x.g * x.n * (x.n + x.p + x.q))  # compared with what the kept one was made of

    def formulas(x: _Sizes) -> dict[str, Work]:
        inputs, outputs = x.B * x.T * x.g * x.p, x.B * x.T * x.g * x.q
        found = {}
        if final:
            once = 2 if response == "kept" else 6
            own = Work(2 * inputs * x.q, moved=width * (once * x.T * x.g * x.p * x.q + 3 * inputs), depth=15)
            found["final"] = prepared(x).plus(own)
        if diagonal:
            passes, depth = (4, 25) if compiled else (12, 25 + 12 * x.sqrt(x.T))
            found["scan"] = Work(elementwise=4 * inputs, moved=width * passes * inputs, depth=depth)
        if associative and compiled:  # one walk over all steps
            states = x.B * x.T * x.g * x.n
            found["associative"] = Work(2 * inputs * x.n, small=2 * states * x.n, moved=width * 8 * states, depth=60)
        elif associative:
            chunks, states = x.sqrt(x.T), x.B * x.T * x.g * x.n
            found["associative"] = Work(
                products=2 * inputs * x.n + double * 3 * chunks * x.g * x.n**3,
                small=(5 if learnt else 4)
                * states
                * x.n,  # a walk of all chunks side by side, and what they begin with
                moved=width * (20 if learnt else 16) * states,
                depth=(3 if learnt else 1) * (120 + 5 * chunks),
            )
        rows = x.B * (x.p + x.q) + (0 if response == "kept" else x.p * x.q)
        own = Work(
            transforms=2.5 * 2 * x.T * x.log2(2 * x.T) * x.g * rows,
            elementwise=each[1] * inputs * x.q,
            moved=width * (11 * (inputs + outputs) + 3 * x.T * x.g * x.p * x.q),
            depth=110 + each[0] * x.T * x.g if each[0] else 110,
        )
        convolution = prepared(x).plus(own)
        C = x.least(x.T, CHUNK)
        if single:
            own = Work(2 * inputs * (ROW + 2 * x.n), moved=width * 8 * inputs, depth=190 + 6 * x.log2(x.T))
        else:
            powers = 2 * C * x.g * x.n**2 * (2 * x.p + x.q) + 4 * x.g * x.n**3 * x.log2(C)
            own = Work(
                2 * inputs * (C * x.q + x.n) + 2 * outputs * x.n + 2 * x.B * x.T / C * x.g * x.n**2 + double * powers,
                moved=width * (12 * inputs + 12 * outputs + 5 * C**2 * x.g * x.p * x.q + 6 * x.B * x.T / C * x.g * x.n)
                + 24 * C * x.g * x.n * (2 * x.p + x.q),
                depth=260 + 3 * x.T / C,
            )
        # its matrices are made anew by each call, and where they are learnt their gradient is as much again
        found["chunked"] = own.times(1 if response == "kept" else 2).plus(Work(depth=300 if learnt else 0))
        # a response that grows is seen when it is there; then steps go chunk by chunk
        found["convolution"] = convolution.plus(found["chunked"].times(0 if elementwise else UNTAMED))
        steps = x.most(x.B, 4) * x.T * x.g
        mixed = 0 if diagonal or elementwise else 2 * steps * x.n**2
        found["sequential"] = Work(
            products=2 * inputs * x.n + (0 if plain else 2 * outputs * x.n),
            small=mixed,
            elementwise=2 * x.B * x.T * x.g * x.n,
            moved=width * (3 * x.B * x.T * x.g * x.n + inputs + outputs),
            depth=autograd * x.T * x.m,
        )
        return found

    return formulas


# time-varying --------------------------------------------------------------------------------------------


def scan_estimates(
    sizes: Mapping[str, int],
    *,
    ring: bool = True,
    dtype: str = "f32",
    gradients: bool = False,
    differentiable: bool = True,
    machine: Machine | None = None,
) -> list[Estimate]:
    """The scan of a time-varying recurrence, associative where states mix, and its loop; cheapest first.

    Without a ring one that is `differentiable` runs the recurrence of its derivatives in the forward pass already.
    """
    machine = machine or Machine()
    width, slower = arithmetic(dtype)
    # without a ring the forward pass has computed the gradient's recurrence already; else all forms grow alike
    autograd = TRAINED / PARALLEL if gradients and not ring else 1.0
    formulas = _varying(sizes["n"] > 1, ring, width, machine.compiled, autograd, differentiable)
    return _estimates(formulas, sizes, machine, slower)


@functools.cache
def _varying(mixes: bool, ring: bool, width: int, compiled: bool, autograd: float, differentiable: bool) -> Formulas:
    def formulas(x: _Sizes) -> dict[str, Work]:
        chunks = x.sqrt(x.T)  # of as many steps: what waits for another is 2 sqrt(T) steps
        states = x.T * x.E * x.n
        if not mixes:
            fast = compiled and ring
            passes, depth = (4, 25) if fast else (12, 25 + 2 * (12 if differentiable and not ring else 6) * chunks)
            form, own = "scan", Work(elementwise=2 * states, moved=width * passes * states, depth=depth)
        elif compiled and ring:
            # one walk, which reads transitions where they lie; those made of fewer coefficients are written first
            square = x.T * x.L * x.n**2
            given = x.least(square, x.T * x.F)
            moved = width * (2 * square - given + 8 * states)
            form, own = "associative", Work(small=2 * x.T * x.E * x.n**2, moved=moved, depth=40)
        else:
            # coefficients are made and multiplied within chunks, applied to states there and to carries after
            square, cube = x.T * x.L * x.n**2, x.T * x.L * x.n**3
            read = 2 * x.T * x.E * x.n**2
            # elements that share a transition are columns of one matrix
            own = Work(small=2 * cube + 2 * read, moved=width * (10 * square + 12 * states), depth=40 + 12 * chunks)
            if not ring and not differentiable:
                own = Work(
                    elementwise=20 * cube + 20 * read,
                    moved=width * (10 * square + 12 * states),
                    depth=100 + 40 * chunks,
                )
            elif (
                not ring
            ):  # products are elementwise; the gradient is a second, ordinary scan of transitions of its own
                others = x.T * x.E * x.n**2
                own = own.plus(Work(
                    small=2 * others * x.n, elementwise=8 * cube + 8 * read, moved=60 * width * others,
                    depth=60 + 48 * chunks,
                ))  # fmt: skip
            form = "associative"
        work = 2 * x.T * x.E * x.n**2
        loop = Work(
            small=work if mixes and ring else 0,
            elementwise=2 * states if not mixes else 0 if ring else 2 * work,
            moved=width * (x.T * x.F + 3 * states),
            depth=autograd * x.T * x.m,
        )
        return {form: own, "sequential": loop}

    return formulas


# matrix states -------------------------------------------------------------------------------------------


def matrix_estimates(
    sizes: Mapping[str, int], form: str, *, dtype: str = "f32", machine: Machine | None = None
) -> list[Estimate]:
    """Matrix states with r rank-one updates that are never stored, and their loop; cheapest first."""
    machine = machine or Machine()
    width, slower = arithmetic(dtype)
    return _estimates(_matrices(form, width, machine.compiled), sizes, machine, slower)


@functools.cache
def _matrices(form: str, width: int, compiled: bool) -> Formulas:
    def formulas(x: _Sizes) -> dict[str, Work]:
        state, row = x.E * x.T * x.k * x.v, x.E * x.T * (2 + x.r) * (x.k + x.v)
        updates = 2 + 2 * x.r if form == "wy" else 2 + x.r
        # compiled, the state stays in cache; in operators there are chunks of a few products each
        own = Work(small=2 * state * updates, moved=width * row, depth=40 if compiled else 80 + 12 * x.T / CHUNK)
        loop = Work(
            small=2 * state * (1 + x.r), elementwise=2 * state * (1 + x.r),
            moved=width * (2 * state * (1 + x.r) + row), depth=x.T * x.m,
        )  # fmt: skip
        return {form: own, "sequential": loop}

    return formulas
