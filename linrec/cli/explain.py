"""`linrec explain`: why each recurrence was or was not converted, and at which line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click


@click.command()
@click.argument("target", metavar="FILE.py:Name")
@click.option("--input", "specs", multiple=True, metavar='"f32[8,784,1]"', help="One argument of the call; repeatable.")
@click.option("--make", metavar='"Net(d=64)"', help="How to make the model; evaluated in FILE.py.")
@click.option(
    "--level", type=click.IntRange(1, 2), default=1, show_default=True, help="1 one screen, 2 your lines too."
)
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
    from linrec.cli._output import MISMATCH, SEQUENTIAL, Ending, remark, result, result_json
    from linrec.cli._target import inputs, load, read_type, user_code

    for spec in specs:
        if "[" in spec:
            read_type(spec)  # before the user's file takes its time

    import torch

    import linrec
    from linrec.render import is_converted, level1, level2

    torch.manual_seed(0)
    model = load(target, make)
    if not specs and (needed := _needed(model)):
        example = " ".join('--input "f32[8,100,1]"' for _ in needed)
        raise Ending(f"{target} takes {', '.join(needed)}: no --input given", f"say their types, for example {example}")
    given = inputs(specs)
    with user_code(target, "do the types given by --input fit its arguments?"):
        report = linrec.explain(model, *given)

    if as_json:
        result_json(report.to_dict())
    else:
        result(level1(report) if level == 1 else level2(report))
    if report.verification.ran and not report.verification.passed:
        remark("error[LR5001] the parallel form disagrees with the original")
        raise SystemExit(MISMATCH)
    kept = [found.name for found in report.recurrences if not is_converted(found)]
    if strict and (kept or report.code):
        remark(f"strict: {', '.join(kept) or 'the program'} stayed sequential")
        raise SystemExit(SEQUENTIAL)


def _needed(model: Callable[..., Any]) -> list[str]:
    """The arguments that a call cannot do without."""
    called = getattr(model, "forward", model)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    return [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
