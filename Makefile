# Two commands: `make demo` and `make test`. Each installs what is missing first. `make help` prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BASE_PYTHON := $(shell command -v python3.11 || command -v python3)
PYTHON := .venv/bin/python
READY := .venv/.ready
MODELS := $(or $(CARELLAMA_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/carellama)/models
export PYTHONDONTWRITEBYTECODE :=  # or every process compiles all that it imports again

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(READY)  ## make .venv with the locked dependencies and this project in it

# --no-compile halves the time: Python compiles the modules that are imported
$(READY): requirements.lock pyproject.toml
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(BASE_PYTHON) is older" >&2; exit 2; }
	test -x $(PYTHON) || $(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY)  ## fine-tune, evaluate, export and ask the embedded English model
	@$(PYTHON) -m carellama demo

demo-zh: terms $(READY)  ## the same in Chinese with gemma3-270m (shows its terms; ACCEPT=1 accepts them)
	@$(PYTHON) -m carellama demo --language zh $(if $(ACCEPT),--accept_licence)

terms:  # before anything is installed
	@test -n "$(ACCEPT)" -o -d "$(MODELS)/gemma3-270m" || { echo "error: gemma3-270m comes under terms of its own: read https://ai.google.dev/gemma/terms, and if you accept them run make demo-zh ACCEPT=1" >&2; exit 2; }

test: $(READY)  ## run the tests; print which share of the package's lines they run
	$(PYTHON) -m slipcover --source src/carellama --silent -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff: style and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(READY)  ## mypy, strict
	$(PYTHON) -m mypy

docs: $(READY)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

check: lint  ## all that CI asks for; types and docs beside the tests, whose summary is the end
	@{ said=$$($(MAKE) --no-print-directory -k types docs 2>&1) || failed=$$?; printf '\n%s\n' "$$said"; \
	   exit $${failed:-0}; } & beside=$$!; \
	status=0; $(MAKE) --no-print-directory test || status=$$?; \
	wait $$beside || { echo 'error: `make types docs` failed, see above' >&2; status=2; }; exit $$status

web:  ## build the web pages from web/ into src/carellama/{serve,export}/web/static (needs Node 20)
	cd web && npm ci --no-audit --no-fund && npm run build

bench: $(READY)  ## what the benchmarks measure, without the peers
	$(PYTHON) benchmarks/encode_rate.py

clean:  ## remove what can be made again (not the model cache)
	rm -rf .venv site build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install demo demo-zh terms test lint types docs check web bench clean
