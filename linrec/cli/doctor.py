"""`linrec doctor`: versions, threads, a self-test, and known bugs of this torch."""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help='As JSON, with "schema": 1.')
def command(as_json: bool) -> None:
    """Say what runs here and what is known to go wrong. Exits with 0 even if it lists known bugs."""
    from linrec.cli._output import result, result_json, table
    from linrec.debug import health

    packages, machine, bugs, test = (
        dict(health.versions()),
        dict(health.machine()),
        health.known_bugs(),
        health.self_test(),
    )
    if as_json:
        known = [{"title": b.title, "instead": b.instead} for b in bugs]
        result_json({"schema": 1, "versions": packages, "machine": machine, "self_test": test, "known_bugs": known})
        return
    result(table([*packages.items(), *machine.items(), ("self-test", test)]))
    result(f"\nknown bugs of torch {packages['torch']} that a loop over time may meet:")
    for bug in bugs:
        result(f"  {bug.title}\n    help: {bug.instead}")
