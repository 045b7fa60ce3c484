PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install run test check
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[embedded,test]'
	touch $@

run: install
	$(BIN)/pipeline run

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q

test: install
	$(BIN)/pytest -q -m "not bench"

SEED ?= $(shell date +%s)
ROUNDS ?= 20
VICTIMS ?= pipeline
.PHONY: crashes bench
crashes: install
	$(BIN)/python -m tests.crashes --seed $(SEED) --rounds $(ROUNDS) --victims $(VICTIMS)

SCENARIOS ?= 2000
.PHONY: otp-diff
otp-diff: install
	$(BIN)/python -m tests.supervisors.otp_diff --seed $(SEED) --scenarios $(SCENARIOS)

bench: install
	$(BIN)/python -m tests.bench

.PHONY: powercuts
powercuts: install
	$(BIN)/python -m tests.powercuts --seed $(SEED) --rounds $(ROUNDS)
