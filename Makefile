# make quickstart [TEXT=path]   train a first model      make test   check everything      make install   .venv alone
# make simulations [LOGS='evaluations/...jsonl']   are the comparisons' errors what they say? (a quarter of an hour)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install quickstart test lint simulations clean

install: $(VENV)/installed

# torch comes first, by its pinned version: a looser request would fetch gigabytes of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/python -m scratchlab.cli.quickstart $(if $(TEXT),--text '$(TEXT)')

test: install lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

simulations: install
	$(BIN)/python benchmarks/comparison_simulations.py $(if $(LOGS),--log $(LOGS))

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache
