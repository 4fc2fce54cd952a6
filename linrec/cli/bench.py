"""`linrec bench`: the loop as written beside each form."""

from __future__ import annotations

import click

from linrec.cli._target import model_options


@click.command()
@click.argument("target", metavar="FILE.py:Name")
@model_options
@click.option("--T", "steps", default="64,256,1024", show_default=True, metavar="64,256", help="Lengths to run.")
@click.option("--train", is_flag=True, help="Forward and backward instead of forward alone.")
@click.option(
    "--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="Calls of each; the median counts."
)
@click.option("--json", "as_json", is_flag=True, help='The times as JSON, with "schema": 1.')
@click.option("--save", metavar="FILE.json", help="Write the JSON to a file as well.")
def command(
    target: str, specs: tuple[str, ...], make: str | None, steps: str, train: bool, repeats: int, as_json: bool,
    save: str | None,
) -> None:  # fmt: skip
    """Time a model as written and in each form that applies, on this machine.

    Calls take turns, so that whatever else the machine does slows all of them alike; the first call,
    which captures and compiles, is shown apart.
    """
    import json
    from pathlib import Path

    from linrec.cli._output import Ending, progress, result, result_json, table
    from linrec.cli._target import numbers, prepared, user_code

    lengths = numbers(steps, "--T")
    model, given = prepared(target, specs, make)

    import torch

    from linrec.debug.timing import bench

    found = []
    with user_code(target, "do the types given by --input fit its arguments?"), progress("timing") as tick:
        for timed in bench(model, given, steps=lengths, train=train, repeats=repeats):
            found.append(timed)
            tick(f"T={timed.steps} {timed.form}")
    loops = {t.steps: t for t in found if t.form == "loop"}
    data = {
        "schema": 1, "target": target, "train": train, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "times": [
            {"T": t.steps, "form": t.form, "seconds": t.seconds, "first": t.first, "speedup": t.times(loops[t.steps])}
            for t in found
        ],
    }  # fmt: skip
    if save is not None:
        try:
            Path(save).write_text(json.dumps(data, indent=2) + "\n")
        except OSError as error:
            raise Ending(f"{save}: {error.strerror}", "give a file that can be written") from error
    if as_json:
        result_json(data)
        return
    rows = [("T", "form", "ms a call", "times the loop's speed", "first call")]
    for t in found:
        rows.append(
            (str(t.steps), t.form, f"{t.seconds * 1e3:.3f}", f"{t.times(loops[t.steps]):.2f}", f"{t.first:.2f} s")
        )
    result(table(rows))
