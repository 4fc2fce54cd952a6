"""`python -m linrec` is the `linrec` command."""

from linrec.cli import main

main()
