"""The `linrec` command: one module of this folder is one subcommand.

The module `explain_code` is `linrec explain-code` and holds its click command as `command`; modules
that start with an underscore are shared parts. No module here imports torch, sympy, networkx or
rich before its command runs, so that `--help` answers at once. Results go to stdout, remarks and errors to
stderr. Exit codes: 0 fine; 1 a recurrence stayed sequential under --strict; 2 bad usage or a bad
input file; 3 a verification mismatch; 4 an internal error.
"""

from __future__ import annotations

import importlib
import pkgutil

import click


class _Folder(click.Group):
    """Subcommands are the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Folder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="linrec", message="linrec %(version)s")
def main() -> None:
    """Say which recurrences of a PyTorch program are linear, and run those in parallel.

    Only commands that take FILE.py:Name execute your code. Results go to stdout, remarks to
    stderr; NO_COLOR switches colours off.

    \b
    Exit codes: 0 fine, 1 a recurrence stayed sequential under --strict,
    2 bad usage or bad input file, 3 verification mismatch, 4 internal error.
    """
