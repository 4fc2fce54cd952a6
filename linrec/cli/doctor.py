"""`linrec doctor`: versions, threads, machine constants, a self-test, and known bugs of this torch."""

from __future__ import annotations

from typing import Any

import click


@click.command()
@click.option("--calibrate", is_flag=True, help="Measure this machine for the cost model, and keep it.")
@click.option("--json", "as_json", is_flag=True, help='As JSON, with "schema": 1.')
def command(calibrate: bool, as_json: bool) -> None:
    """Say what runs here and what is known to go wrong. Exits with 0 even if it lists known bugs.

    Forms are chosen by the costs that this machine's constants come to: shipped ones, or those that --calibrate
    measured. It takes some seconds and writes linrec/machine.json in the user's cache folder, or the file that
    LINREC_CALIBRATION names; remove the file to go back to the shipped constants.
    """
    from linrec import calibration
    from linrec.cli._output import result, result_json, table
    from linrec.debug import health

    if calibrate:
        _calibrate()
    packages, machine, bugs, test = (
        dict(health.versions()),
        dict(health.machine()),
        health.known_bugs(),
        health.self_test(),
    )
    constants, origin = calibration.load(), calibration.origin()
    if as_json:
        known = [{"title": b.title, "instead": b.instead} for b in bugs]
        data: dict[str, Any] = {"schema": 1, "versions": packages, "machine": machine}
        data |= {"constants": {name: getattr(constants, name) for name in calibration.RATES}, "constants_from": origin}
        result_json({**data, "self_test": test, "known_bugs": known})
        return
    result(table([*packages.items(), *machine.items(), ("self-test", test)]))
    result(f"\nmachine constants ({origin}):")
    result(table([(f"  {name}", f"{getattr(constants, name):.3g}", unit) for name, unit in calibration.UNITS.items()]))
    result(f"\nknown bugs of torch {packages['torch']} that a loop over time may meet:")
    for bug in bugs:
        result(f"  {bug.title}\n    help: {bug.instead}")


def _calibrate() -> None:
    from linrec import calibration
    from linrec.cli._output import Ending, progress, remark

    with progress("measuring this machine") as tick:
        try:
            calibration.calibrate(progress=tick)
        except OSError as error:
            raise Ending(
                f"{calibration.path()}: {error.strerror}", "name a file that can be written by LINREC_CALIBRATION"
            ) from error
    remark(f"{calibration.path()}: written; programs compiled from now on go by it")
