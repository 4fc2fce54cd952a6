"""A fuzzer: loops drawn from a grammar, with their verdict known by construction, against the compiler.

    python -m fuzz.run --programs 2000 --seed 0      from tests/, or `make fuzz N=2000 SEED=0`

`grammar` writes programs, `check` judges one, `shrink` makes a failing one small, `run` does many and keeps count;
`mutations` rewrites the sources of programs in ways that must change nothing.
"""
