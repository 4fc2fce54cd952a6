"""Bisection: which rewrite is the first after which validation fails.

The rewrite counter numbers what passes do. Allowed the first n only, a pipeline is right for n = 0 and wrong for all;
halving finds the first n that is wrong, with log2 of the number of rewrites runs of the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from linrec.debug.draws import LENGTHS
from linrec.debug.hooks import Limit
from linrec.debug.run import optimize
from linrec.debug.validation import Failure, validate
from linrec.ir import Graph
from linrec.manager import Context, Hook, Rewrite


@dataclass(frozen=True)
class Bisection:
    """The failure, the first bad rewrite (None if it fails without any), and what was tried: (limit, ok)."""

    failure: Failure
    first: Rewrite | None
    total: int
    tried: tuple[tuple[int, bool], ...]

    def __str__(self) -> str:
        path = ", ".join(f"{limit} {'ok' if ok else 'FAIL'}" for limit, ok in self.tried)
        named = f"first bad rewrite: {self.first}" if self.first else f"{self.failure.step} fails without a rewrite"
        return f"BISECT rewrite 1..{self.total} -> {path}\n{named}"


def bisect(
    graph: Graph,
    passes: Sequence[str] | None = None,
    *,
    hooks: Sequence[Hook] = (),
    context: Context | None = None,
    steps: Sequence[int] = LENGTHS,
    seeds: int = 1,
    test: Callable[[Graph], bool] | None = None,
) -> Bisection | None:
    """The first rewrite that breaks validation, or None if nothing is broken.

    `test` says whether the optimised graph is good, in place of validation. Deterministic: the same graph, passes and
    seeds give the same rewrite.
    """
    context = Context() if context is None else context
    tried: list[tuple[int, bool]] = []
    seen = context.fresh()

    def failure_at(limit: int | None) -> Failure | None:
        nonlocal seen
        seen = context.fresh()
        limits = () if limit is None else (Limit(limit),)
        if test is not None:
            made = optimize(graph, passes, (*hooks, *limits), seen)
            return None if test(made) else Failure("LR5001", seen.by, "the test fails")
        draw = None if known is None or known.draw is None else [known.draw]
        found = validate(graph, passes, hooks=(*hooks, *limits), context=seen, steps=steps, seeds=seeds, chosen=draw)
        same = known is None or found is None or (found.code, found.step) == (known.code, known.step)
        return found if same else None

    known: Failure | None = None
    known = failure_at(None)
    if known is None:
        return None
    # a failing run stops early, so what it counted includes the bad rewrite
    total = bad = len(seen.rewrites)
    good = 0
    if failure_at(0) is not None:
        return Bisection(known, None, total, ((0, False),))
    while bad - good > 1:
        middle = (good + bad) // 2
        ok = failure_at(middle) is None
        tried.append((middle, ok))
        good, bad = (middle, bad) if ok else (good, middle)
    last = failure_at(bad)
    assert last is not None
    return Bisection(last, seen.rewrites[bad - 1], total, tuple(tried))
