"""`linrec bisect`: the first rewrite after which a program is wrong."""

from __future__ import annotations

import click

from linrec.cli._target import model_options


@click.command()
@click.argument("target", metavar="FILE.py:Name|FILE.lir")
@model_options
@click.option("-p", "--passes", metavar="P,Q", help="The passes, in order; all if left out.")
@click.option("--T", "steps", default="1,2,3,16,67", show_default=True, metavar="1,2,3", help="Lengths to run.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many draws of numbers.")
@click.option("--test", "test", metavar="CMD", help="A command that exits with 0 if FILE.lir, appended to it, is good.")
@click.option(
    "-o", "--output", default="linrec-repro", show_default=True, metavar="DIR", help="Where the reproducer goes."
)
def command(
    target: str, specs: tuple[str, ...], make: str | None, passes: str | None, steps: str, seeds: int,
    test: str | None, output: str,
) -> None:  # fmt: skip
    """Find the first rewrite that breaks verification, by halving.

    Passes count their rewrites; allowed the first n only, the program is right for n = 0 and wrong
    for all. Exits with 3 if a rewrite was found, with 0 if nothing is broken.
    """
    from pathlib import Path

    from linrec import reproducer as files
    from linrec.cli._external import judged_by
    from linrec.cli._output import MISMATCH, progress, remark, result
    from linrec.cli._target import numbers, reproducer, user_code

    lengths = numbers(steps, "--T")
    given = reproducer(target, specs, make)
    names = tuple(p.strip() for p in passes.split(",")) if passes else given.passes

    from linrec.debug import bisect
    from linrec.manager import Context

    with progress("bisecting"), user_code(target, "are the passes those of `linrec passes`?"):
        found = bisect(
            given.graph, names, context=Context(forms=given.forms), steps=lengths, seeds=seeds,
            test=None if test is None else judged_by(test),
        )  # fmt: skip
    if found is None:
        result("nothing is broken: every pass validates" if test is None else "nothing is broken: the test passes")
        return
    result(f"verify: {found.failure}\n{found}")
    number = found.first.number if found.first else 0
    draw = found.failure.draw
    file = Path(output) / f"{files.stem(given.graph)}-{number}" / "repro.lir"
    files.save(
        files.Reproducer(
            given.graph, names, given.forms, f"{found.failure.code} after {found.failure.step}",
            (draw.steps, draw.kind, draw.seed) if draw else None,
        ),
        file,
    )  # fmt: skip
    remark(f"repro: {file}   next: linrec reduce {file}")
    raise SystemExit(MISMATCH)
