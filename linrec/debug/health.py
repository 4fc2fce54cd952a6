"""Health: what runs here, and what is known to go wrong in this version of torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import torch

import linrec
from linrec import native

PACKAGES = ("linrec", "torch", "numpy", "scipy", "sympy", "networkx", "click", "rich")


@dataclass(frozen=True)
class KnownBug:
    """A defect of torch's that meets users of recurrences; seen in versions from `first` on."""

    first: tuple[int, int]
    title: str
    instead: str


KNOWN = (
    KnownBug(
        (2, 9),
        "torch's scan operator: two chained scans under inductor give wrong gradients without an error",
        "linrec does not run it; write the loop and compile it with linrec",
    ),
    KnownBug(
        (2, 9),
        "torch's scan operator: second derivatives are wrong, in eager mode too",
        "as above",
    ),
    KnownBug(
        (2, 9),
        "custom_op with register_autograd: torch.func.jvp returns a zero tangent without an error",
        "inside a loop use torch's own operators, or an autograd.Function with a jvp",
    ),
    KnownBug(
        (2, 9),
        "select_scatter under torch.vmap: the gradient of what is written is wrong without an error",
        "linrec writes slice_scatter instead; so should a program that calls vmap itself",
    ),
    KnownBug(
        (2, 9),
        "torch.compile unrolls a loop over time and compiles again for every new length",
        "compile with linrec first; what it emits can be compiled by torch",
    ),
)


def versions() -> Iterator[tuple[str, str]]:
    """Packages and the interpreter."""
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def machine() -> Iterator[tuple[str, str]]:
    """What computes."""
    yield "system", f"{platform.system()} {platform.machine()}"
    yield "processors", str(os.cpu_count())
    yield "torch threads", str(torch.get_num_threads())
    yield "kernels", native.status()
    for name in ("OMP_NUM_THREADS", "LINREC"):
        if name in os.environ:
            yield name, os.environ[name]
    yield "cuda", torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"


def known_bugs() -> list[KnownBug]:
    """Those seen in this version or before it."""
    major, minor = (int(p) for p in torch.__version__.split(".")[:2])
    return [bug for bug in KNOWN if (major, minor) >= bug.first]


def self_test() -> str:
    """Compile a small loop and check it against itself; what was found, in a line."""

    def leaky(x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
        return h

    report = linrec.explain(leaky, torch.randn(2, 40, 3))
    if not report.verification.passed or not report.recurrences:
        return f"FAILED: {report.code} {report.reason or report.verification.note}"
    return f"a decay of 40 steps runs as {report.recurrences[0].form}, error {report.verification.error:.1e}"
