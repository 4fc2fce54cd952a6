"""A corpus of recurrences written the way people write them, each with its verdict known by construction.

Every module of this package registers programs by decorating functions of tensors and `nn.Module` classes with
`program`; `corpus()` returns them all. What a program expects follows from its mathematics alone: a recurrence is a
group of values of which each depends on an earlier step of the others, and its step is affine in them or it is not.
Programs draw float64 inputs and are stable, so that results can be compared at any length.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Size = str | int
Made = TypeVar("Made", bound=Callable[..., Any])

SCALED = ("scalar", "diagonal")  # one factor for a whole row of the batch: either name is right
COUPLED = ("block-diagonal", "dense")  # a few states that mix elementwise: blocks, or one small matrix
LOW_RANK = ("diagonal+low-rank", "dense")  # of width three or so: either is as cheap


# ---- inputs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """How one argument is drawn. Sizes are numbers or expressions in B and T, such as "T" or "T+1"."""

    sizes: tuple[Size, ...]
    low: float = 0.0
    high: float = 0.0  # uniform in low .. high where they differ, else normal
    scale: float = 1.0
    dtype: torch.dtype = torch.float64
    kind: str = "float"  # "float", "mask", "index" (integers in low .. high - 1), "lengths" (1 .. T, T among them)

    def draw(self, generator: torch.Generator, steps: int, batch: int) -> Tensor:
        """The tensor for a number of steps and a batch size."""
        shape = [size_of(s, steps, batch) for s in self.sizes]
        if self.kind == "mask":
            return torch.rand(shape, generator=generator) > 0.3
        if self.kind == "index":
            return torch.randint(int(self.low), int(self.high), shape, generator=generator)
        if self.kind == "lengths":
            ends = torch.randint(1, steps + 1, shape, generator=generator)
            ends[0] = steps
            return ends
        made = torch.complex128 if self.dtype.is_complex else torch.float64
        if self.low != self.high:
            value = torch.rand(shape, generator=generator, dtype=made) * (self.high - self.low) + self.low
        else:
            value = torch.randn(shape, generator=generator, dtype=made) * self.scale
        return value.to(self.dtype)


def size_of(size: Size, steps: int, batch: int) -> int:
    """A size such as "T+1" for a number of steps and a batch size."""
    if isinstance(size, int):
        return size
    name, _, more = size.partition("+")
    return {"B": batch, "T": steps}[name] + int(more or 0)


def normal(*sizes: Size, scale: float = 1.0) -> Drawn:
    """A standard normal tensor, scaled."""
    return Drawn(sizes, scale=scale)


def uniform(low: float, high: float, *sizes: Size) -> Drawn:
    """Uniform between two bounds."""
    return Drawn(sizes, low, high)


def decays(*sizes: Size) -> Drawn:
    """Uniform in 0.3 .. 0.95."""
    return Drawn(sizes, 0.3, 0.95)


def matrix(*sizes: Size) -> Drawn:
    """Normal, small enough for a stable transition of width four or less."""
    return Drawn(sizes, scale=0.25)


def complex_(*sizes: Size, scale: float = 1.0) -> Drawn:
    """Complex normal."""
    return Drawn(sizes, scale=scale, dtype=torch.complex128)


def mask(*sizes: Size) -> Drawn:
    """Booleans, seven of ten true."""
    return Drawn(sizes, kind="mask")


def index(high: int, *sizes: Size) -> Drawn:
    """Integers from 0 to high - 1."""
    return Drawn(sizes, 0, high, kind="index")


def lengths(*sizes: Size) -> Drawn:
    """One number of steps for each sequence, the first of them T."""
    return Drawn(sizes, kind="lengths")


X = normal("B", "T", 3)
TX = normal("T", "B", 3)
D = decays(3)
A = matrix(3, 3)


# ---- expectations ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The verdict on one recurrence; where several are right, all of them.

    `structures` and `codes` of None leave the name open. `blames` is part of the user's line that the refusal must
    point at. An `optional` recurrence may also be folded away (a running sum that becomes a sum).
    """

    kinds: tuple[str, ...]
    structures: tuple[str, ...] | None = None
    form: str = "parallel"  # "parallel", "sequential" or "either"
    codes: tuple[str, ...] | None = ("",)
    semirings: tuple[str, ...] = ("sum-product",)
    blames: str = ""
    optional: bool = False

    def maybe(self) -> Expected:
        """The same, and it may be folded away."""
        return replace(self, optional=True)


def lti(*structures: str, semiring: str = "sum-product") -> Expected:
    """Linear with coefficients that do not vary over time; runs in parallel."""
    return Expected(("lti",), structures or None, semirings=(semiring,))


def ltv(*structures: str, semiring: str = "sum-product") -> Expected:
    """Linear with coefficients that vary over time; runs in parallel."""
    return Expected(("ltv",), structures or None, semirings=(semiring,))


def linear(*structures: str, semiring: str = "sum-product") -> Expected:
    """Linear; the first or last step differs, so it varies over time unless that step is set apart."""
    return Expected(("lti", "ltv"), structures or None, semirings=(semiring,))


def refused(*codes: str, blames: str = "") -> Expected:
    """Not linear, for one of these reasons; runs as written."""
    return Expected(("nonlinear",), None, "sequential", codes, ("sum-product",), blames)


def open_(*codes: str) -> Expected:
    """Linear or refused with one of these codes: both can be defended, so only results count."""
    return Expected(("lti", "ltv", "nonlinear"), None, "either", ("", *codes), ANY_SEMIRING)


ANY_SEMIRING = ("sum-product", "max-plus", "min-plus", "log-sum-exp", "or-and")


# ---- programs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """One program: how to make it, what to call it with, and what is true of it.

    Attributes:
        build: gives a fresh function, or a module in float64 with the same weights each time.
        inputs: arguments for a number of steps and a batch size; the same each time.
        expected: one entry for each recurrence; of `many` programs, each recurrence matches one of the entries.
        refusal: codes with which the whole program may be refused at capture; required if `expected` is empty.
        smallest, multiple: the lengths that the program can run.
        also: further lengths to try after the usual ones.
        training: whether modules are in training mode.
        tolerance: the error allowed, beside 1 + the largest value.
        gradients: whether the original itself can be differentiated; if not, it is called without gradients.
        file: where the program is written.
    """

    name: str
    build: Callable[[], Callable[..., Any]]
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    expected: tuple[Expected, ...]
    refusal: frozenset[str] = frozenset()
    smallest: int = 1
    multiple: int = 1
    also: tuple[int, ...] = ()
    training: bool = False
    many: bool = False
    tolerance: float = 1e-8
    gradients: bool = True
    file: str = ""

    def length(self, wanted: int) -> int:
        """The nearest length not below `wanted` that the program can run."""
        return -(-max(wanted, self.smallest) // self.multiple) * self.multiple

    @property
    def is_parallel(self) -> bool:
        """Must every recurrence run in a parallel form?"""
        return bool(self.expected) and all(e.form == "parallel" for e in self.expected)

    @property
    def is_refused(self) -> bool:
        """Is no recurrence linear?"""
        return all(e.kinds == ("nonlinear",) for e in self.expected)

    @property
    def is_partial(self) -> bool:
        """Are some recurrences linear and others not?"""
        forms = {e.form for e in self.expected if not e.optional}
        return forms == {"parallel", "sequential"}


_PROGRAMS: dict[str, Program] = {}


def program(
    *inputs: Drawn,
    expect: Expected | Sequence[Expected] = (),
    refusal: Sequence[str] = (),
    smallest: int = 1,
    multiple: int = 1,
    also: Sequence[int] = (),
    training: bool = False,
    many: bool = False,
    tolerance: float = 1e-8,
    gradients: bool = True,
    name: str = "",
) -> Callable[[Made], Made]:
    """Register a function, or an `nn.Module` class that is built without arguments."""

    def register(made: Made) -> Made:
        key = name or made.__name__
        assert key not in _PROGRAMS, f"two programs are called {key}"

        def build() -> Callable[..., Any]:
            if not isinstance(made, type):
                return made
            with torch.random.fork_rng():
                torch.manual_seed(zlib.crc32(key.encode()))
                module: nn.Module = made()
            return module.double().train(training)

        def arguments(steps: int, batch: int) -> tuple[Tensor, ...]:
            generator = torch.Generator().manual_seed(1000 * batch + steps)
            return tuple(d.draw(generator, steps, batch) for d in inputs)

        _PROGRAMS[key] = Program(
            key,
            build,
            arguments,
            (expect,) if isinstance(expect, Expected) else tuple(expect),
            frozenset(refusal),
            smallest,
            multiple,
            tuple(also),
            training,
            many,
            tolerance,
            gradients,
            made.__module__.rpartition(".")[2] + ".py",
        )
        return made

    return register


def corpus() -> dict[str, Program]:
    """All programs by name: every module of this package is part of the corpus."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(_PROGRAMS)
