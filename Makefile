python := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow lint format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

env: ## make .venv with the locked packages (PYTHON=... chooses the Python)
	@.dev_scripts/make_env.sh

demo: env ## train KAT-T + UperNet on sample data for a few minutes and draw its predictions
	$(python) tools/demo.py

# A process for each core, up to four, and one thread in each. Those who are done take from others.
test: env ## run the tests but the slow ones (ARGS=... goes to pytest)
	OMP_NUM_THREADS=1 $(python) -m pytest -n logical --maxprocesses 4 --dist worksteal -m 'not slow' $(ARGS)

test-slow: env ## run the slow tests, one by one (ARGS=... goes to pytest)
	$(python) -m pytest -m slow $(ARGS)

lint: env ## check style and format
	$(python) -m ruff check .
	$(python) -m ruff format --check .

format: env ## mend what lint can mend by itself
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

clean: ## remove build products and caches; .venv, data and work_dirs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
