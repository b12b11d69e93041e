# `make help` lists the targets. The installing itself is in scripts/setup.sh.
HOST ?= 127.0.0.1
PORT ?= 8501
export PYTHON TORCH_INDEX
# Compiled modules stay for the next process: without them every process of the tests compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
# Stamp files: written last, so that an interrupted installation is simply done again.
APP := .venv/.installed-app
DEV := .venv/.installed-dev

# A process of the tests for each core.
WORKERS := -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-model test-ray e2e long fuzz harness audit package lowest docs lint check fix runs clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'
	@echo
	@echo "  PORT=8502  HOST=0.0.0.0 ALLOW=name.local  PYTHON=python3.11  TORCH_INDEX=https://...  ARGS='-k heads'"

run: $(APP) ## install what is missing and start the dashboard on http://127.0.0.1:8501
	@$(PY) -m cap_viz serve --host $(HOST) --port $(PORT) --allow "$(ALLOW)"

test: $(DEV) ## the default tests: no network, no model
	@$(PY) -m pytest $(WORKERS) $(ARGS)

test-slow: $(DEV) ## the tests that take long: a whole study, notebooks, an installed plug-in, programs of their own
	@$(PY) -m pytest -m "slow and not long" $(ARGS)

test-model: $(DEV) ## the tests on the real model (SmolLM2)
	@$(PY) -m pytest -m "model and not long" $(WORKERS) $(ARGS)

test-ray: $(DEV) ## the tests on a Ray cluster of two workers, started on this machine
	@$(PY) -m pytest -m ray $(ARGS)

e2e: $(DEV) ## the tests in a real browser (needs Chromium)
	@$(PY) -m pytest -m "e2e and not long" $(ARGS)

long: $(DEV) fuzz ## the tests that take many minutes, kills, and our model type beside lm-eval's own
	@$(PY) -m pytest -m long $(ARGS)
	@$(MAKE) --no-print-directory harness

fuzz: $(DEV) ## ten thousand hostile inputs for every parser
	@$(PY) -m pytest tests/test_hostile.py tests/test_hostile_models.py tests/test_pack.py --hypothesis-profile=fuzz --timeout 3600 -n auto

harness: $(DEV) ## our model type and lm-eval's own on 200 questions, item by item
	@$(PY) -m scripts.package --arc

audit: $(DEV) ## known vulnerabilities of the pins, and the list of licences
	@$(PY) -m scripts.supply_chain

package: $(DEV) ## build the wheel, and try it in an empty environment beside lm-eval
	@$(PY) -m scripts.package

lowest: $(DEV) ## the default tests with the lowest versions that pyproject.toml allows
	@$(PY) -m scripts.package --lowest

docs: $(DEV) ## the reference of the Python interface, as build/reference/cap_viz.html
	@$(PY) -m scripts.reference

lint: $(DEV) ## format, lint, types, and the direction of imports
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m pyright
	@.venv/bin/lint-imports --no-logo

check: lint test ## everything to run before a commit

fix: $(DEV) ## format the code and repair what the linter can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

runs: $(APP) ## rebuild every shipped run
	@$(PY) -m studies.shipped

clean: ## remove caches of tools and tests; keeps .venv and your runs
	@rm -rf .pytest_cache .ruff_cache .hypothesis build dist *.egg-info test-results
	@find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(APP): requirements.txt requirements-model.txt constraints.txt
	@sh scripts/setup.sh app

$(DEV): $(APP) requirements-dev.txt
	@sh scripts/setup.sh dev
