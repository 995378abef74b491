# Needs python3 (3.11 or later), its venv module and make; everything else comes into .venv.
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?= --profile quick --out demo

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread in tests: with busy cores a second one makes everything ten times slower. Windows are drawn off screen.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg QT_QPA_PLATFORM=offscreen

# A file of tests at a time on each core, on four at most.
TEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

.PHONY: help install demo test lint format clean

help:
	@echo "make demo    simulate, calibrate and reconstruct a whole experiment into demo/ (DEMO_ARGS=... to change it)"
	@echo "make test    the tests                         make lint    style, types, walls"
	@echo "make install only the environment in $(VENV)"

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/ptychoscope demo $(DEMO_ARGS)

test: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
