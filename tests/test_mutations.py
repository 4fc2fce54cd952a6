"""Source mutations of the corpus: rewrites that change nothing must change neither the verdict nor the result.

A mutated program is compared with the program as it was, so that the rewrite itself is checked too: one that does not fit
(its own result is another, or it cannot run) is left out, and a test counts how many are left.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz.mutations import MUTATIONS, fits, mutated
from programs import Program, corpus
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import linrec
from linrec.reports import Report

FOLDER = Path(__file__).parent / "programs"
PROGRAMS = corpus()
QUICK_OF = 60  # one pair in so many is tried by `make test`, all by `make test-all`
STEPS, LATER, BATCH = 13, 37, 5


@dataclass(frozen=True)
class Pair:
    """A program and a mutation that fits its source."""

    program: Program
    mutation: str

    @property
    def source(self) -> str:
        """The module with the program rewritten."""
        return mutated(_text(self.program), self.program.name, MUTATIONS[self.mutation])


@functools.cache
def _text_of(file: str) -> str:
    return (FOLDER / file).read_text()


def _text(program: Program) -> str:
    return _text_of(program.file)


PAIRS = [Pair(p, m) for p in PROGRAMS.values() for m in MUTATIONS if fits(_text(p), p.name, MUTATIONS[m])]


def _is_quick(pair: Pair) -> bool:
    return zlib.crc32(f"{pair.program.name} {pair.mutation}".encode()) % QUICK_OF == 0


def _marked(pairs: list[Pair]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "pair",
        [
            pytest.param(p, id=f"{p.mutation}-{p.program.name}", marks=() if _is_quick(p) else pytest.mark.slow)
            for p in pairs
        ],
    )


def _loaded(pair: Pair, folder: Path) -> Callable[[], Callable[..., Any]]:
    """What makes the mutated program afresh."""
    path = folder / f"{pair.mutation}_{pair.program.name}.py"
    path.write_text(pair.source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    made = getattr(module, pair.program.name)

    def build() -> Callable[..., Any]:
        if not isinstance(made, type):
            return made  # type: ignore[no-any-return]
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32(pair.program.name.encode()))
            net: nn.Module = made()
        return net.double().train(pair.program.training)

    return build


def _results(call: Callable[..., Any], program: Program, steps: int, batch: int) -> list[Tensor]:
    """Outputs, and gradients of the inputs."""
    inputs = [x.clone() for x in program.inputs(program.length(steps), batch)]
    leaves = [x.requires_grad_() for x in inputs if program.gradients and (x.is_floating_point() or x.is_complex())]
    torch.manual_seed(3)
    with torch.set_grad_enabled(program.gradients):
        made = [x for x in tree_leaves(call(*(x.clone() for x in inputs))) if isinstance(x, Tensor)]
    total = torch.zeros((), dtype=torch.float64)
    for out in made:
        if out.requires_grad:
            total = total + (torch.view_as_real(out.resolve_conj()) if out.is_complex() else out).sin().sum()
    slopes = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad and leaves else ()
    return [*(x.detach() for x in made), *(s for s in slopes if s is not None)]


def _are_close(left: list[Tensor], right: list[Tensor], tolerance: float) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and torch.allclose(a, b.to(a.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)
        for a, b in zip(left, right, strict=True)
    )


def _verdict(report: Report) -> Counter[tuple[str, str, bool]]:
    """Kinds, semirings and whether each runs in parallel form; where nothing is found, the code."""
    found = Counter((r.kind, r.semiring, r.form != "sequential") for r in report.recurrences)
    return found or Counter({(report.code, "", False): 1})


@functools.cache
def _verdict_before(name: str) -> Counter[tuple[str, str, bool]]:
    program = PROGRAMS[name]
    made = linrec.compile(program.build(), verify="off")
    for steps in (STEPS, LATER):
        _results(made, program, steps, BATCH)
    return _verdict(linrec.report(made))


def _in_place(pair: Pair, build: Callable[[], Callable[..., Any]], wanted: list[Tensor]) -> str:
    """What is wrong with the rewrite itself, without any compiling; "" if it is the same program."""
    try:
        rewritten = _results(build(), pair.program, STEPS, BATCH)
    except (RuntimeError, TypeError, AttributeError, NameError, ValueError, LookupError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "" if _are_close(rewritten, wanted, 1e-10) else "another result"


@_marked(PAIRS)
def test_nothing_changes(pair: Pair, tmp_path: Path) -> None:
    program = pair.program
    build = _loaded(pair, tmp_path)
    wanted = _results(program.build(), program, STEPS, BATCH)
    if wrong := _in_place(pair, build, wanted):
        pytest.skip(f"out of place here: {wrong}")
    made = linrec.compile(build(), verify="off")
    assert _are_close(_results(made, program, STEPS, BATCH), wanted, program.tolerance)
    longer = _results(program.build(), program, LATER, BATCH)
    assert _are_close(_results(made, program, LATER, BATCH), longer, program.tolerance)
    report = linrec.report(made)
    assert _verdict(report) == _verdict_before(program.name), str(report)


def test_mutations_fit_many_programs() -> None:
    fitting = Counter(p.mutation for p in PAIRS)
    assert len(PROGRAMS) >= 140
    assert set(fitting) == set(MUTATIONS)
    assert min(fitting.values()) >= 8, fitting
    assert sum(_is_quick(p) for p in PAIRS) >= 10


@pytest.mark.slow
def test_most_rewrites_are_in_place(tmp_path: Path) -> None:
    wrong: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for pair in PAIRS[::23]:
        wanted = _results(pair.program.build(), pair.program, STEPS, BATCH)
        wrong[pair.mutation] += bool(_in_place(pair, _loaded(pair, tmp_path), wanted))
        tried[pair.mutation] += 1
    assert wrong.total() <= 0.1 * tried.total(), wrong
    assert all(wrong[m] <= 0.5 * n for m, n in tried.items()), wrong
