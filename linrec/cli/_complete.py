"""What the shell completes beside commands and options: passes and codes; torch is not loaded for it."""

from __future__ import annotations

import click


def complete_codes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Codes that start so, in either case."""
    from linrec.codes import CODES

    return [code for code in CODES if code.startswith(incomplete.upper())]


def complete_passes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The last pass of a list with commas, completed by all that start so."""
    from linrec.passes import load_passes

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in load_passes() if name.startswith(last)]
