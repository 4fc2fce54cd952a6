"""`linrec verify`: every pass against the step interpreter, then the laws on the user's own model."""

from __future__ import annotations

from typing import Any

import click

from linrec.cli._target import model_options


@click.command()
@click.argument("target", metavar="FILE.py:Name|FILE.lir")
@model_options
@click.option("--T", "steps", default="1,2,3,16,67", show_default=True, metavar="1,2,3", help="Lengths to run.")
@click.option("--dtypes", metavar="f32,f64", help="Element types for the laws; those of --input if left out.")
@click.option("--grad", type=click.IntRange(0, 2), default=1, show_default=True, help="The highest gradients compared.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many draws of numbers.")
@click.option(
    "--laws", default="L1,L2,L3", show_default=True, metavar="L1,L2,L3", help="Which laws; FILE.py:Name only."
)
@click.option("--json", "as_json", is_flag=True, help='The findings as JSON, with "schema": 1.')
def command(
    target: str, specs: tuple[str, ...], make: str | None, steps: str, dtypes: str | None, grad: int, seeds: int,
    laws: str, as_json: bool,
) -> None:  # fmt: skip
    """Validate the compilation of a program, pass by pass, on numbers.

    Each pass is compared with the step interpreter in double precision, at bounded lengths: bit by
    bit, or up to rounding where a pass adds in another order. For a model of yours the laws follow:
    L1 same function and gradients, L2 step equals sequence, L3 splitting is free. Exits with 3 on a mismatch.
    """
    from linrec.cli._output import MISMATCH, Ending, progress, remark, result, result_json, table
    from linrec.cli._target import DTYPES, is_text, numbers, prepared, reproducer, user_code

    lengths = numbers(steps, "--T")
    chosen = tuple(x.strip() for x in laws.split(",") if x.strip())
    if bad := [x for x in chosen if x not in ("L1", "L2", "L3")]:
        raise Ending(f"no law is called '{bad[0]}'", "they are L1, L2 and L3")
    kinds = tuple(x.strip() for x in dtypes.split(",")) if dtypes else ()
    if bad := [x for x in kinds if x not in DTYPES]:
        raise Ending(f"no element type is called '{bad[0]}'", f"they are {', '.join(DTYPES)}")
    given = reproducer(target, specs, make)

    from linrec.debug.hooks import Measure
    from linrec.debug.run import optimize
    from linrec.debug.validation import VerifyEach
    from linrec.manager import BROKEN, Context

    measure = Measure()
    check = VerifyEach(lengths, seeds, gradients=grad > 0, measure=measure)
    data: dict[str, Any] = {"schema": 1, "target": target, "passes": [], "laws": []}
    with progress("validating passes"):
        try:
            optimize(given.graph, given.passes, [measure, check], Context(forms=given.forms))
        except BROKEN:
            if check.failure is None:
                raise
    failed = check.failure is not None
    data["passes"] = [{"pass": row.name, "seconds": row.seconds} for row in measure.rows.values()]
    data["checks"], data["worst"], data["skipped"] = check.checks, check.worst, check.skipped
    data["failure"] = None if check.failure is None else {"code": check.failure.code, "text": str(check.failure)}
    lines = [
        f"passes: {len(measure.rows) - ('verify-each' in measure.rows)} run, {check.checks} checks, worst {check.worst:.1e}"
    ]
    if not check.checks and check.skipped:
        lines.append(f"note: no draw can be run: {check.skipped[0]}")
    if check.failure is not None:
        lines.append(f"verify: {check.failure}")
    elif not is_text(target) and chosen:
        from linrec.debug.laws import check_laws

        model, values = prepared(target, specs, make)
        found = []
        with user_code(target, "do the types given by --input fit its arguments?"), progress("checking laws") as tick:
            for verdict in check_laws(
                model, values, steps=lengths, dtypes=[DTYPES[k] for k in kinds], order=grad, seeds=seeds, laws=chosen
            ):  # fmt: skip
                found.append(verdict)
                tick(f"{verdict.law} {verdict.where}")
        rows = [("law", "at", "error", "allowed", "")]
        for v in found:
            state = (f"does not apply: {v.note}" if v.note else "holds") if v.holds else f"FAIL {v.code} at {v.note}"
            rows.append((v.law, v.where, f"{v.error:.1e}", f"{v.allowed:.1e}", state))
        lines.append(table(rows))
        data["laws"] = [
            {"law": v.law, "at": v.where, "error": v.error, "allowed": v.allowed, "holds": v.holds, "note": v.note}
            for v in found
        ]
        failed = any(not v.holds for v in found)
    if as_json:
        result_json(data)
    else:
        result("\n".join(lines))
    if failed:
        remark(f"next: linrec bisect {target}" + "".join(f' --input "{s}"' for s in specs))
        raise SystemExit(MISMATCH)
