"""`linrec reduce`: a smaller program with the same failure."""

from __future__ import annotations

import click

from linrec.cli._target import model_options


@click.command()
@click.argument("target", metavar="FILE.lir|FILE.py:Name")
@model_options
@click.option("-p", "--passes", metavar="P,Q", help="The passes, in order; those of the reproducer if left out.")
@click.option("--T", "steps", default="1,2,3,16,67", show_default=True, metavar="1,2,3", help="Lengths to run.")
@click.option("--budget", default="120s", show_default=True, metavar="120s", help="For how long to try.")
@click.option("-o", "--output", metavar="FILE.lir", help="Where to write it; beside the target if left out.")
def command(
    target: str,
    specs: tuple[str, ...],
    make: str | None,
    passes: str | None,
    steps: str,
    budget: str,
    output: str | None,
) -> None:
    """Shrink a program that fails, keeping the same failure code after the same pass.

    Lengths, sizes, operators and passes are left out one after the other. What remains is one
    file without weights: `linrec verify` shows the failure again. Exits with 3 if it fails, 0 if not.
    """
    import re
    from pathlib import Path

    from linrec import reproducer as files
    from linrec.cli._output import MISMATCH, Ending, progress, remark, result
    from linrec.cli._target import is_text, numbers, reproducer, user_code

    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|)", budget.strip())
    if found is None:
        raise Ending(f'--budget "{budget}": expected seconds or minutes', "for example --budget 120s or --budget 5m")
    seconds = float(found[1]) * (60 if found[2] == "m" else 1)
    lengths = numbers(steps, "--T")
    given = reproducer(target, specs, make)
    names = tuple(p.strip() for p in passes.split(",")) if passes else given.passes

    from linrec.debug import reduce
    from linrec.manager import Context

    with progress("reducing"), user_code(target, "are the passes those of `linrec passes`?"):
        made = reduce(given.graph, names, context=Context(forms=given.forms), steps=lengths, budget=seconds)
    if made is None:
        result("nothing to reduce: every pass validates")
        return
    place = (
        Path(output)
        if output
        else Path(target).with_suffix(".reduced.lir")
        if is_text(target) and target != "-"
        else files.FOLDER / f"{files.stem(given.graph)}.lir"
    )
    result(f"verify: {made.failure}\n{made}")
    remark(f"repro: {files.save(made.reproducer, place)}   {made.seconds:.1f} s, {made.changes} changes kept")
    raise SystemExit(MISMATCH)
