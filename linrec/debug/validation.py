"""Translation validation: every pass, on every program it meets, against the step interpreter.

What a pass made must compute what it was given, at bounded lengths, on small integers and small reals, gradients
included: bit by bit unless the pass `reassociates`, else up to rounding in double precision. What it says of
recurrences is tested as well (linrec.debug.claims). Work is that of interpreting each changed graph once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from linrec.debug.claims import check_claims
from linrec.debug.draws import FAR, LENGTHS, Draw, draws
from linrec.debug.hooks import Measure
from linrec.debug.outcomes import Outcome, difference, is_finite, outcome, sound, worst
from linrec.debug.precision import check_precision
from linrec.debug.run import optimize
from linrec.errors import FAILURES, LinrecError, VerificationError, VerifyError
from linrec.ir import Graph
from linrec.manager import BROKEN, Context, Hook, Pass, Rewrite


@dataclass(frozen=True)
class Failure:
    """What went wrong, after which pass and rewrite, and on which draw (None where no numbers were needed)."""

    code: str
    step: str
    message: str
    draw: Draw | None = None
    rewrite: Rewrite | None = None

    def __str__(self) -> str:
        where = f" ({self.draw})" if self.draw is not None else ""
        return f"FAIL {self.code} after {self.step}{where}: {self.message}"


class VerifyEach(Hook):
    """Validate each pass as it ends; raises VerificationError at the first that changes a meaning.

    `steps` are the lengths to run, `seeds` how many times; `chosen` replaces both by given draws. Afterwards `checks`
    counts comparisons, `worst` is the largest relative error, `failure` says what was found.
    """

    def __init__(
        self,
        steps: Sequence[int] = LENGTHS,
        seeds: int = 1,
        *,
        gradients: bool = True,
        chosen: Sequence[Draw] | None = None,
        measure: Measure | None = None,
    ) -> None:
        self.steps, self.seeds, self.gradients, self.chosen, self.measure = steps, seeds, gradients, chosen, measure
        self.checks, self.worst = 0, 0.0
        self.failure: Failure | None = None
        self.skipped: list[str] = []
        self._graph: Graph | None = None
        self._known: dict[Draw, Outcome] = {}

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """Compare, and keep what was computed for the next pass."""
        if new == old:
            return
        if self.measure is None:
            self._check(step, old, new, context)
        else:
            self.measure.timed("verify-each", lambda: self._told(step, old, new, context))

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception) -> None:
        """A pass that raises, or that breaks a law of the language, has failed as well."""
        if self.failure is None:
            code = error.code if isinstance(error, LinrecError) else "LR9002"
            text = error.message if isinstance(error, LinrecError) else f"{type(error).__name__}: {error}"
            self.failure = Failure(code, step.name, text, None, context.rewrites[-1] if context.rewrites else None)

    def _told(self, step: Pass, old: Graph, new: Graph, context: Context) -> str:
        self._check(step, old, new, context)
        return f"{self.checks} checks, worst {self.worst:.1e}"

    def _check(self, step: Pass, old: Graph, new: Graph, context: Context) -> None:
        rewrite = context.rewrites[-1] if context.rewrites else None
        try:
            check_precision(old, new)
            self.checks += check_claims(old, new)
        except VerificationError as error:
            self.failure = Failure(error.code, step.name, error.message, None, rewrite)
            raise
        if replace(old, recurrences=()) == replace(new, recurrences=()):
            self._graph = new
            return
        if self._graph is not old:
            self._known = {}
        for chosen in self._draws(old):
            if chosen.steps >= FAR and not step.reassociates:
                continue  # what is exact at short lengths is exact at long ones
            before = self._known.get(chosen) or self._first(old, chosen)
            if before is None or (step.reassociates and chosen.kind != "broken" and not is_finite(before)):
                continue
            self._compare(step, before, new, chosen, rewrite)
        self._graph = new

    def _draws(self, graph: Graph) -> Sequence[Draw]:
        return self.chosen if self.chosen is not None else draws(graph, self.steps, self.seeds)

    def _differentiates(self, chosen: Draw) -> bool:
        return self.gradients and chosen.kind != "broken" and chosen.steps < FAR

    def _first(self, graph: Graph, chosen: Draw) -> Outcome | None:
        """The outcome before the pass; None where the program itself cannot run on these numbers."""
        try:
            return outcome(graph, chosen, gradients=self._differentiates(chosen))
        except FAILURES as error:
            self.skipped.append(f"{chosen}: {type(error).__name__}: {error}")
            return None

    def _compare(self, step: Pass, before: Outcome, new: Graph, chosen: Draw, rewrite: Rewrite | None) -> None:
        try:
            after = outcome(new, chosen, gradients=self._differentiates(chosen))
        except VerifyError as error:
            self._fail(error.code, step, error.message, chosen, rewrite)
        except FAILURES as error:
            self._fail("LR5005", step, f"cannot be run: {type(error).__name__}: {error}", chosen, rewrite)
        compared = sound(new, before, after) if chosen.kind == "broken" else (before, after)
        if step.reassociates and chosen.kind in ("integers", "resized"):
            # integers meet the kinks of relu and of maxima exactly; a rounding error then takes the other slope
            compared = Outcome(compared[0].values), Outcome(compared[1].values)
        found = difference(*compared, exact=not step.reassociates)
        if found is not None:
            self._fail(found.code, step, str(found), chosen, rewrite)
        self.checks += 1
        self.worst = max(self.worst, worst(before, after))
        self._known[chosen] = after

    def _fail(self, code: str, step: Pass, message: str, chosen: Draw, rewrite: Rewrite | None) -> None:
        self.failure = Failure(code, step.name, message, chosen, rewrite)
        raise VerificationError(
            code, f"after {step.name} ({chosen}): {message}", help="linrec bisect names the rewrite, linrec reduce shrinks the program"
        )  # fmt: skip


def validate(
    graph: Graph,
    passes: Sequence[str] | None = None,
    *,
    hooks: Sequence[Hook] = (),
    context: Context | None = None,
    steps: Sequence[int] = LENGTHS,
    seeds: int = 1,
    gradients: bool = True,
    chosen: Sequence[Draw] | None = None,
) -> Failure | None:
    """Run passes under `VerifyEach`; the first failure, None if all is well. `hooks` come before it."""
    check = VerifyEach(steps, seeds, gradients=gradients, chosen=chosen)
    try:
        optimize(graph, passes, (*hooks, check), context)
    except BROKEN:
        if check.failure is None:  # not a pass's doing
            raise
    return check.failure
