# `make` alone lists what there is. PYTHON: which Python makes the virtual environment (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INV := $(BIN)/inv
# What is installed: what a release needs, and what tests and labs need beside it.
OPERATOR := $(VENV)/.operator
DEVELOPER := $(VENV)/.developer
NAME ?= lab

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: $(DEVELOPER) ## raise a disposable fleet, release a good binary, then see a bad one rolled back by itself
	@$(BIN)/python -m lab.demo

.PHONY: test
test: lint $(DEVELOPER) ## everything: lint, types, all tests, real canaries on real Incus among them (25 minutes)
	$(BIN)/python -m pytest -q -n 2 -m "not incus" tests
	$(BIN)/python -m pytest -q -m incus tests

.PHONY: test-fast
test-fast: $(DEVELOPER) ## unit and property tests (one minute)
	$(BIN)/python -m pytest -q -n 2 -m "not sandbox and not incus and not registry and not postgres" --ignore=tests/lab --ignore=tests/adapters/test_ssh.py tests

.PHONY: lint
lint: $(DEVELOPER) ## ruff and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: acceptance
acceptance: $(DEVELOPER) ## the runbook's acceptance drill on real Incus (root); evidence in .lab/acceptance
	$(BIN)/python -m lab.acceptance

.PHONY: lab-up lab-down
lab-up: $(DEVELOPER) ## raise a real Incus fleet (root, Debian or Ubuntu); NAME=lab
	$(BIN)/python -m lab.incus up --name $(NAME)
lab-down: $(DEVELOPER) ## remove it and all it made
	$(BIN)/python -m lab.incus down --name $(NAME)

.PHONY: deploy-canary
deploy-canary: $(OPERATOR) ## release ARTIFACT=/path/to/veza-api-vX.Y.Z; all knobs from the environment, as the runbook has it
	@$(INV) canary

.PHONY: bench
bench: $(DEVELOPER) ## how long a release takes, beside its floor, on real Incus (root)
	$(BIN)/python -m benchmarks.roll

$(OPERATOR): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEVELOPER): requirements-dev.txt $(OPERATOR)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
