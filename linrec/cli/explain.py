"""`linrec explain`: why each recurrence was or was not converted, and at which line."""

from __future__ import annotations

import click

from linrec.cli._target import model_options

_LEVELS = "1 one screen, 2 your lines too, 3 responses and the steps before and after, 4 passes and guards."


@click.command()
@click.argument("target", metavar="FILE.py:Name")
@model_options
@click.option("--level", type=click.IntRange(1, 4), default=1, show_default=True, help=_LEVELS)
@click.option("--json", "as_json", is_flag=True, help='The report as JSON, with "schema": 1.')
@click.option("--strict", is_flag=True, help="Exit with 1 if a recurrence stays sequential.")
def command(target: str, specs: tuple[str, ...], make: str | None, level: int, as_json: bool, strict: bool) -> None:
    """Explain which recurrences of a model run in parallel, and why the others do not.

    This executes FILE.py and calls Name: a function, an nn.Module class (made without arguments,
    or by --make), or a module. Inputs are random, with a fixed seed.

    \b
    linrec explain net.py:Net --input "f32[8,784,1]"
    linrec explain net.py --make "Net(d=64)" --input "f32[8,784,1]" --level 2
    """
    from linrec.cli._output import MISMATCH, SEQUENTIAL, remark, result, result_json
    from linrec.cli._target import prepared, user_code

    model, given = prepared(target, specs, make)

    import linrec
    from linrec.debug.hooks import Measure
    from linrec.debug.levels import level3, level4
    from linrec.manager import Stages, watching
    from linrec.render import is_converted, level1, level2
    from linrec.symbolic import program_of, with_closed_forms

    stages, measure = Stages(), Measure()
    with user_code(target, "do the types given by --input fit its arguments?"), watching(stages, measure):
        report = linrec.explain(model, *given)
    if level > 2 and report.recurrences:
        report = with_closed_forms(report, program_of(model, *given))

    if as_json:
        result_json(report.to_dict())
    elif level == 4:
        result(level4(report, stages.graphs, measure))
    elif level == 3:
        result(level3(report, stages.graphs))
    else:
        result(level1(report) if level == 1 else level2(report))
    if report.verification.ran and not report.verification.passed:
        remark("error[LR5001] the parallel form disagrees with the original")
        raise SystemExit(MISMATCH)
    kept = [found.name for found in report.recurrences if not is_converted(found)]
    if strict and (kept or report.code):
        remark(f"strict: {', '.join(kept) or 'the program'} stayed sequential")
        raise SystemExit(SEQUENTIAL)
