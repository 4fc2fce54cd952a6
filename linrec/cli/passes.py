"""`linrec passes`: the passes, in the order in which they run."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help='As JSON, with "schema": 1.')
def command(as_json: bool) -> None:
    """List the passes: their names, what each comes after, and what it does."""
    from linrec.cli._output import result, result_json, table
    from linrec.passes import load_passes

    found = [(name, kind.after, _first_line(kind)) for name, kind in load_passes().items()]
    if as_json:
        passes = [{"name": name, "after": list(after), "does": does} for name, after, does in found]
        result_json({"schema": 1, "passes": passes})
        return
    rows = [(name, ", ".join(after), does) for name, after, does in found]
    result(table([("pass", "after", "does"), *rows]))


def _first_line(kind: type) -> str:
    # A dataclass without a docstring gets its signature as one; its module then says more.
    text = kind.__doc__ or ""
    if not text or text.startswith(f"{kind.__name__}("):
        text = sys.modules[kind.__module__].__doc__ or ""
    return text.strip().partition("\n")[0]
