# What a contributor does, one command each; `make` lists them. Everything is installed into .venv.
#
#   make test ARGS="tests/cpu -k winograd"     ARGS go on to the program behind the command
#   make setup PYTHON=python3.13               which Python .venv is made of

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
RUN := $(VENV)/bin/python

.PHONY: help setup kernels test lint format bench docs figures wheels check

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## make .venv and install everything that the other commands take; compiles the kernels
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --disable-pip-version-check -e ".[dev]"

kernels: ## compile the kernels again, after a change in kernels/cpu
	$(RUN) setup.py -q build_ext --inplace

test: ## run the tests, in parallel
	$(RUN) -m pytest -n auto $(ARGS)

lint: ## check style and types; changes nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: ## let ruff mend what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: ## measure this machine, beside PyTorch where it is installed; some minutes
	$(RUN) -m benchmarks.cpu --quick $(ARGS)

docs: ## build the documentation into docs/_build/html; a warning is an error
	$(RUN) -m sphinx -W --keep-going -n -q -j auto docs docs/_build/html $(ARGS)

figures: ## draw the pictures of the documentation again
	$(RUN) docs/figures/draw.py $(ARGS)

wheels: ## build and try a wheel for every Python on this machine, into dist
	bash tools/build_wheels.sh $(ARGS)

check: ## everything that must hold before a change lands, from nothing; half an hour
	bash .ci/run
