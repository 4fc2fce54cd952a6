"""Costs: what each form of a recurrence would take, as sympy expressions in its sizes.

B batch, T steps, g groups, n states, p drives, q outputs (linrec/linear/system.py), m operators in a step. A
form costs floating-point operations, bytes moved, and dependent launches; seconds follow from a machine's
rates. The defaults are those of two cores of a server CPU, single precision, with the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Rates of a machine (linrec/calibration.py measures them); the shipped ones are two cores of a server CPU's."""

    matmul: float = 120e9  # operations a second in large matrix products
    fft: float = 20e9  # operations a second in FFTs
    vector: float = 6e9  # operations a second in elementwise work
    memory: float = 10e9  # bytes a second
    launch: float = 6e-6  # seconds an operator
    compiled: bool = True  # are the compiled kernels there?


@dataclass(frozen=True)
class Estimate:
    """Symbolic cost of one form and the seconds it comes to."""

    form: str
    flops: str
    bytes: str
    depth: str
    seconds: float


def estimates(
    sizes: Mapping[str, int],
    *,
    constant: bool,
    final: bool,
    diagonal: bool = False,
    width: int = 4,
    machine: Machine | None = None,
) -> list[Estimate]:
    """Every form of a time-invariant recurrence, cheapest first; `constant` coefficients have a cached response.

    A `diagonal` one may be scanned as well: each state on its own.
    """
    import sympy

    machine = machine or Machine()
    B, T, g, n, p, q, m = sympy.symbols("B T g n p q m", positive=True)
    fft = sympy.Integer(5) * 2 * T * sympy.log(2 * T, 2)
    response = (
        sympy.Integer(0)
        if constant
        else 2 * T * g * n * n * p + sympy.Piecewise((0, sympy.Eq(q, n)), (2 * T * g * q * n * p, True))
    )
    C = sympy.Min(T, 64)
    products = {
        "final": response + 2 * B * T * g * p * q,
        "convolution": response + sympy.Integer(0),
        "chunked": 2 * B * T * g * (C * p * q / 2 + n * q + n * p) + 2 * B * T / C * g * n * n,
        "scan": sympy.Integer(0),
        "sequential": 2 * B * T * g * (n * n + n * p + n * q),
    }
    work = {
        "final": sympy.Integer(0),
        "convolution": fft * g * (B * p + B * q + (0 if constant else p * q)) + 8 * T * B * g * p * q,
        "chunked": B * T * g * (p + q),
        "scan": 2 * B * T * g,
        "sequential": B * T * g * (n + p),
    }
    moved = {
        "final": width * (T * g * p * q + B * T * g * p),
        "convolution": width * (6 * B * T * g * (p + q)),
        "chunked": width * (3 * B * T * g * (p + q) + B * T / C * g * n),
        "scan": width * (3 if machine.compiled else 12) * B * T * g,
        "sequential": width * (B * T * g * (3 * n + p + q) + T * g * n * n),
    }
    depth = {
        "final": sympy.Integer(4),
        "convolution": sympy.Integer(10),
        "chunked": 3 * T / C + 12,
        "scan": sympy.Integer(2) if machine.compiled else 6 * sympy.sqrt(T),
        "sequential": T * m,
    }
    values = {B: sizes["B"], T: sizes["T"], g: sizes["g"], n: sizes["n"], p: sizes["p"], q: sizes["q"], m: sizes["m"]}
    found = []
    for form in ("final", "scan", "convolution", "chunked", "sequential"):
        if (form == "final" and not final) or (form == "scan" and not diagonal):
            continue
        numbers = [float(e.subs(values)) for e in (products[form], work[form], moved[form], depth[form])]
        rate = machine.fft if form == "convolution" else machine.vector
        seconds = numbers[0] / machine.matmul + max(numbers[1] / rate, numbers[2] / machine.memory)
        seconds += numbers[3] * machine.launch
        found.append(Estimate(form, str(products[form] + work[form]), str(moved[form]), str(depth[form]), seconds))
    return sorted(found, key=lambda e: e.seconds)


def scan_estimates(
    sizes: Mapping[str, int], form: str, *, width: int = 4, machine: Machine | None = None
) -> list[Estimate]:
    """The scan of a time-varying recurrence and its loop: E elements that pass, n states that mix."""
    import sympy

    machine = machine or Machine()
    E, T, n, m = sympy.symbols("E T n m", positive=True)
    values = {E: sizes["E"], T: sizes["T"], n: sizes["n"], m: sizes["m"]}
    # two levels: local products (n^3 where states mix), carries, and one pass that applies them
    rows = {
        form: (
            2 * T * E * (n**3 + 2 * n**2) if sizes["n"] > 1 else 2 * T * E,
            (3 if machine.compiled and sizes["n"] == 1 else 8) * width * T * E * n,
            2 if machine.compiled and sizes["n"] == 1 else 6 * sympy.sqrt(T),
        ),
        "sequential": (2 * T * E * n**2, 3 * width * T * E * n, T * m),
    }
    found = []
    for name, (flops, moved, depth) in rows.items():
        work, traffic, launches = (float(e.subs(values)) for e in (flops, moved, sympy.sympify(depth)))
        seconds = work / machine.vector + traffic / machine.memory + launches * machine.launch
        found.append(Estimate(name, str(flops), str(moved), str(depth), seconds))
    return found


def matrix_estimates(
    sizes: Mapping[str, int], form: str, *, width: int = 4, machine: Machine | None = None
) -> list[Estimate]:
    """Matrix states with r rank-one updates and its loop: E passing elements, k by v states."""
    import sympy

    machine = machine or Machine()
    E, T, k, v, r, m = sympy.symbols("E T k v r m", positive=True)
    values = {E: sizes["E"], T: sizes["T"], k: sizes["k"], v: sizes["v"], r: sizes["r"], m: sizes["m"]}
    rows = {
        form: (
            2 * E * T * k * v * (2 + 2 * r if form == "wy" else 2 + r),
            width * E * T * (2 + r) * (k + v),
            sympy.Integer(1),
        ),
        "sequential": (2 * E * T * k * v * (2 + 2 * r), 3 * width * E * T * k * v * m, T * m),
    }
    found = []
    for name, (flops, moved, depth) in rows.items():
        work, traffic, launches = (float(e.subs(values)) for e in (flops, moved, depth))
        # the compiled step keeps its state in cache: as fast as matrix products of that size
        seconds = work / (machine.matmul / 2 if name == form else machine.vector)
        seconds += traffic / machine.memory + launches * machine.launch
        found.append(Estimate(name, str(flops), str(moved), str(depth), seconds))
    return found


def pays_from(sizes: Mapping[str, int], form: str, **options: Any) -> int | None:
    """The smallest power of two of steps from which `form` beats the loop, None if none up to 2^20 does."""
    for exponent in range(21):
        at = {**sizes, "T": 2**exponent}
        seconds = {e.form: e.seconds for e in estimates(at, **options)}
        if seconds.get(form, float("inf")) <= seconds["sequential"]:
            return 1 << exponent
    return None
