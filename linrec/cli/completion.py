"""`linrec completion`: the script that makes a shell complete commands, options, passes and codes."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash   eval "$(linrec completion bash)"      in ~/.bashrc
    zsh    eval "$(linrec completion zsh)"       in ~/.zshrc
    fish   linrec completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from linrec.cli import main
    from linrec.cli._output import result

    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three
    result(kind(main, {}, "linrec", "_LINREC_COMPLETE").source())
