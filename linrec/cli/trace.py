"""`linrec trace`: a call of the user's program as the text of a graph, before any pass."""

from __future__ import annotations

import click

from linrec.cli._target import model_options


@click.command()
@click.argument("target", metavar="FILE.py:Name")
@model_options
@click.option("-o", "--output", metavar="FILE.lir", help="Where to write; stdout if left out.")
@click.option("--at-T", "steps", metavar="6,8,11", help="The lengths at which the call is traced, two or more.")
@click.option("--no-source", is_flag=True, help="Leave out the names and lines of your files.")
def command(
    target: str, specs: tuple[str, ...], make: str | None, output: str | None, steps: str | None, no_source: bool
) -> None:
    """Capture a call as text: every value, its type, its step and your line.

    This executes FILE.py. The text is what `linrec opt`, verify, bisect and reduce read; edit it as you like.
    """
    from pathlib import Path

    from linrec.cli._output import Ending, remark, result
    from linrec.cli._target import numbers, prepared, user_code

    lengths = None if steps is None else numbers(steps, "--at-T")
    if lengths is not None and (len(lengths) < 2 or len(set(lengths)) < len(lengths) or min(lengths) < 2):
        raise Ending(f'--at-T "{steps}": two or more different lengths of at least 2', "for example --at-T 6,8,11")
    model, given = prepared(target, specs, make)

    from linrec.debug import trace
    from linrec.text import show

    with user_code(target, "do the types given by --input fit its arguments?"):
        graph = trace(model, *given, sources=not no_source, **({} if lengths is None else {"steps": lengths}))
    if output is None:
        result(show(graph).rstrip("\n"))
        return
    try:
        Path(output).write_text(show(graph))
    except OSError as error:
        raise Ending(f"{output}: {error.strerror}", "give a file that can be written") from error
    remark(f"{output}: {len(graph.ops)} ops, {len(graph.times)} loops over time")
