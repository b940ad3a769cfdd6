# `make demo` on a fresh machine needs Python 3.11+, make and git; the rest comes into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install demo test faults soak full-size fuzz lint bench bench-gpu lock down clean

PYTHONS := python3.13 python3.12 python3.11 python3
STAMP := .venv/.installed

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | while IFS='	' read -r verb what; do printf '  make %-9s %s\n' "$$verb" "$$what"; done

install: $(STAMP)  ## Make .venv and install what requirements.lock names

$(STAMP): pyproject.toml requirements.lock
	@python=''; for name in $(PYTHONS); do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$name"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  found=$$(python3 --version 2>&1 || true); \
	  echo "make: found no Python 3.11 or newer (looked for: $(PYTHONS); python3 is: $$found)." >&2; \
	  echo "make: install one, put it on PATH, and run make again." >&2; \
	  exit 1; \
	fi; \
	if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then "$$python" -m venv --clear .venv; fi
	.venv/bin/python -m uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install -q --disable-pip-version-check uv
	VIRTUAL_ENV="$$PWD/.venv" .venv/bin/python -m uv pip install -q -r requirements.lock
	VIRTUAL_ENV="$$PWD/.venv" .venv/bin/python -m uv pip install -q --no-deps -e .
	@touch $(STAMP)

demo: $(STAMP)  ## Make 24 pictures with the demo model; without a terminal, stop everything afterwards
	@code=0; .venv/bin/produce --csv examples/prompts.csv --run demo --download outputs || code=$$?; \
	if [ -t 1 ]; then \
	  echo; \
	  echo "Pictures: outputs/ (open outputs/index.html). Your own: .venv/bin/produce --csv FILE. Stop everything: make down"; \
	else \
	  .venv/bin/produce down || [ $$code -ne 0 ] || code=$$?; \
	fi; \
	exit $$code

test: $(STAMP)  ## Run all tests, against a real broker and a real storage
	.venv/bin/python -m pytest

faults: $(STAMP)  ## Break everything once, and print what it cost
	.venv/bin/python -m pytest tests/faults -m faults

MINUTES := 60
SEED := 1
LEASE_S := 60
soak: $(STAMP)  ## Break things at random under load: make soak MINUTES=60 SEED=1
	PYTHONPATH=tests/support .venv/bin/python tests/faults/soak.py $(MINUTES) $(SEED) $(LEASE_S)

full-size: $(STAMP)  ## Take a model of Stable Diffusion 1.5's size, with random weights, through produce
	PYTHONPATH=tests/support .venv/bin/python tests/full_size.py

fuzz: $(STAMP)  ## Try 240,000 damaged files, cells, names and messages
	FUZZ_CASES=40000 .venv/bin/python -m pytest tests/test_fuzz.py --timeout 7200

lint: $(STAMP)  ## Check style, types and who imports whom
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

bench: $(STAMP)  ## Measure, and print a table
	.venv/bin/python -m bench

bench-gpu: $(STAMP)  ## Measure a CUDA device with models of real sizes: at most 9 minutes, offline
	PYTHONPATH=tests/support .venv/bin/python -m bench.gpu

down:  ## Stop the local stack
	@if [ -x .venv/bin/produce ]; then .venv/bin/produce down; else echo "make: nothing is installed here, so nothing runs."; fi

COMPILE := .venv/bin/python -m uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
# The images install the versions of requirements.lock, each only what it needs. Flower shares the producer's image.
SUBSET := $(COMPILE) --no-annotate -c requirements.lock pyproject.toml

lock: $(STAMP)  ## Resolve the dependencies anew
	$(COMPILE) --all-extras pyproject.toml -o requirements.lock
	echo flower | $(SUBSET) - -o deploy/requirements-producer.lock
	$(SUBSET) --extra worker -o deploy/requirements-worker.lock

clean:  ## Remove .venv and caches; pictures and the local stack stay
	@if [ -x .venv/bin/produce ]; then .venv/bin/produce down; fi
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
