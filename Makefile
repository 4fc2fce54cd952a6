# Every target first sets up .venv if it is missing or older than what it is made from.
#   make VENV_FLAGS=--system-site-packages    keeps what the machine already has, such as a torch built for its GPU
#   make fuzz N=20000 SEED=0                  judges programs SEED .. SEED+N-1, into the folder out/fuzz
#   make demo DATA=folder EPOCHS=15           trains on the official MNIST files of a folder

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3.11)
VENV_FLAGS ?=
DATA ?=
EPOCHS ?= 15
N ?= 2000
SEED ?= 0

BIN := .venv/bin
# two processes of one thread each: what a small machine has
TEST = PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2
LINT = $(BIN)/ruff check --quiet && $(BIN)/lint-imports --no-logo

.DEFAULT_GOAL := help
.PHONY: help demo test test-all fuzz check fix bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: .venv/stamp  ## train the LMU on psMNIST in parallel, with the plain loop timed beside it
	$(BIN)/python examples/lmu_psmnist.py --epochs $(EPOCHS) $(if $(DATA),--data '$(DATA)') --json out/demo.json --plot out/demo.png

test: .venv/stamp  ## cheap lint, then all tests not marked slow
	$(LINT)
	$(TEST) -m "not slow"

test-all: .venv/stamp  ## cheap lint, then all tests
	$(LINT)
	$(TEST)

fuzz: .venv/stamp  ## judge N random programs from number SEED on; goes on where it was cut off
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --programs $(N) --seed $(SEED) --folder out/fuzz --shrink 60

check: .venv/stamp  ## format, lint, import arrows, types
	$(BIN)/ruff format --check
	$(LINT)
	$(BIN)/mypy

fix: .venv/stamp  ## format and repair what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/stamp  ## every structure beside its loop, hand-written forms and bare work
	$(BIN)/python benchmarks/bench_forms.py --json out/bench.json --plot out/bench.png

clean:  ## remove .venv and everything made
	rm -rf .venv build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# With VENV_FLAGS the pins of packages that the machine already has are left out, so that those stay.
ifeq ($(strip $(VENV_FLAGS)),)
PINS = cat constraints.txt
else
PINS = $(BIN)/pip list --format=freeze | awk -F== \
	'function plain(name) { gsub(/[-_.]+/, "-", name); return tolower(name) } \
	NR == FNR { have[plain($$1)]; next } !(plain($$1) in have)' - constraints.txt
endif

.venv/stamp: pyproject.toml constraints.txt setup.py $(wildcard linrec/native/*.c linrec/native/*.h)
	$(PYTHON) -m venv $(VENV_FLAGS) .venv
	$(PINS) > .venv/constraints.txt
	$(BIN)/pip install --quiet -c .venv/constraints.txt -e '.[dev]'
	touch $@
