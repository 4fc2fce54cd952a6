"""`linrec explain-code`: the long text of a code, or the list of all codes."""

from __future__ import annotations

import click

from linrec.cli._complete import complete_codes


@click.command()
@click.argument("code", required=False, shell_complete=complete_codes)
def command(code: str | None) -> None:
    """Explain a code such as LR1204; without CODE, list all."""
    import difflib

    from linrec.cli._output import Ending, result, table
    from linrec.codes import CODES

    if code is None:
        result(table((name, found.title) for name, found in CODES.items()))
        return
    name = code.strip().strip("[]").upper()
    if name not in CODES:
        near = difflib.get_close_matches(name, CODES, n=3)
        raise Ending(
            f'no code "{code}"', f"{', '.join(near)}?" if near else "`linrec explain-code` alone lists all codes"
        )
    result(f"{name}: {CODES[name].title}\n\n{CODES[name].text.rstrip()}")
