"""`linrec opt`: run passes on the text of a graph, watched by as many hooks as are asked for."""

from __future__ import annotations

from typing import Any

import click

from linrec.cli._complete import complete_passes


@click.command()
@click.argument("target", metavar="FILE.lir")
@click.option(
    "-p",
    "--passes",
    shell_complete=complete_passes,
    metavar="P,Q",
    help="The passes, in order; all of `linrec passes` if left out.",
)
@click.option("--forms", default=None, metavar="FORM", help="Ask for one form of every recurrence.")
@click.option("--show-passes", is_flag=True, help="Print the passes that would run, and stop.")
@click.option("--emit", default="ir", show_default=True, metavar="ir,python,step,json", help="What to print.")
@click.option("-o", "--output", metavar="FILE", help="Where to write it; stdout if left out.")
@click.option("--print-ir-before", "before", multiple=True, metavar="P", help="The graph before a pass.")
@click.option("--print-ir-after", "after", multiple=True, metavar="P", help="The graph after a pass.")
@click.option("--print-ir-before-all", "before_all", is_flag=True, help="The graph before every pass.")
@click.option("--print-ir-after-all", "after_all", is_flag=True, help="The graph after every pass.")
@click.option("--print-ir-after-change", "after_change", is_flag=True, help="After every pass that changed it.")
@click.option("--print-ir-after-failure", "after_failure", is_flag=True, help="What a failing pass was given.")
@click.option("--print-ir-tree-dir", "tree", metavar="DIR", help="Write a file a pass into DIR.")
@click.option("--verify-each/--no-verify-each", default=True, show_default=True, help="Validate every pass on numbers.")
@click.option("--timing", is_flag=True, help="What each pass took.")
@click.option("--statistics", is_flag=True, help="What each pass did.")
@click.option("--remarks", metavar="passed,missed,analysis,failed", help="Which remarks to print, on stderr.")
@click.option("--remarks-filter", metavar="REGEX", help="Only remarks that match.")
@click.option("--bisect-limit", type=click.IntRange(0), metavar="N", help="Do the first N rewrites only.")
@click.option("--split-input-file", is_flag=True, help="The file holds several graphs, with `// -----` between.")
@click.option("--verify-diagnostics", is_flag=True, help="Compare with `// expected-error {{...}}` comments.")
@click.option("--reproducer", metavar="FILE", help="Where to write a reproducer if something fails.")
def command(**options: Any) -> None:
    """Run passes on a graph written as text, and print what becomes of it.

    FILE.lir comes from `linrec trace`, from a reproducer or from your own hand; - is stdin. Nothing in
    it is executed but torch's operators, and those only to validate. IR dumps, remarks and tables go to stderr.

    \b
    linrec opt m.lir -p canonicalize,cse --print-ir-after-change
    linrec opt m.lir --timing --statistics --remarks=passed,missed
    """
    from linrec.cli._opt import Run

    raise SystemExit(Run(**options).all())
