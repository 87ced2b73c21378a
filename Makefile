python := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env operators demo test test-slow lint format docs dist clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

env: ## make .venv with the locked packages (PYTHON=... chooses the Python)
	@.dev_scripts/make_env.sh

operators: ## env, and mmcv's compiled operators, which detection needs (about 10 minutes, once)
	@.dev_scripts/make_env.sh operators

demo: env ## train KAT-T + UperNet on sample data for a few minutes and draw its predictions
	$(python) tools/demo.py

# A process for each core, up to four, and one thread in each. Those who are done take from others.
test: operators ## run the tests but the slow ones (ARGS=... goes to pytest)
	OMP_NUM_THREADS=1 $(python) -m pytest -n logical --maxprocesses 4 --dist worksteal -m 'not slow' $(ARGS)

test-slow: operators ## run the slow tests, one by one (ARGS=... goes to pytest)
	$(python) -m pytest -m slow $(ARGS)

lint: env ## check style, format and types
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format: env ## mend what lint can mend by itself
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

docs: env ## build the site into build/site, and check its links and commands
	$(python) .dev_scripts/check_docs.py
	$(python) -m mkdocs build --strict

dist: env ## build the wheel and the sdist into dist/
	$(python) -m build --no-isolation

clean: ## remove build products and caches; .venv, data and work_dirs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
