"""`linrec report`: one HTML file with everything that was found."""

from __future__ import annotations

import click

from linrec.cli._target import model_options


@click.command()
@click.argument("target", metavar="FILE.py:Name")
@model_options
@click.option(
    "-o", "--output", default="linrec-report.html", show_default=True, metavar="FILE.html", help="Where to write it."
)
@click.option("--redact", is_flag=True, help="Leave out the text of your program; names and line numbers stay.")
def command(target: str, specs: tuple[str, ...], make: str | None, output: str, redact: bool) -> None:
    """Write a page: each recurrence beside your lines, its formula, forms and costs, poles, and the graph.

    One file without links to anywhere; it opens from disk. The graph can be zoomed, dragged and clicked.
    """
    from pathlib import Path

    from linrec.cli._output import Ending, progress, remark
    from linrec.cli._target import prepared, user_code

    model, given = prepared(target, specs, make)

    from linrec.debug.page import report_page

    with user_code(target, "do the types given by --input fit its arguments?"), progress("writing the report"):
        text = report_page(model, given, redact=redact)
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Ending(f"{output}: {error.strerror}", "give a file that can be written") from error
    remark(f"{output}: {len(text) // 1024} KiB")
