# make quickstart: learn on a real clip, compare the policies, write runs/quickstart.
# make test: every test that needs no GPU.
# make docs: the documentation as a site, site/index.html.
# PYTHON=... picks another interpreter; pip's own PIP_* settings are inherited.

PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
OUT ?= benchmarks/results

.PHONY: quickstart test lint docs wheel gpu-check bench venv clean

quickstart: venv
	$(BIN)/python train.py --config configs/quickstart.py
	$(BIN)/python evaluate.py --config configs/quickstart.py --checkpoint runs/quickstart/checkpoints

test: venv
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The pages of docs/ as a site in site/, their figures drawn anew.
docs: venv
	$(BIN)/python docs/figures.py
	$(BIN)/python -m mkdocs build --strict

wheel:
	$(PYTHON) -m pip wheel . --no-deps --wheel-dir dist

# Runs in the environment at hand, with its JAX: installs nothing, and needs of the packages for
# tests pytest alone. The benchmark runs even where a test fails.
gpu-check:
	workers=$$($(PYTHON) -c "import xdist; print('-n 8')" 2>/dev/null); \
	XLA_PYTHON_CLIENT_PREALLOCATE=false BC_JAX_TEST_PLATFORM=cuda,cpu \
	$(PYTHON) -m pytest -q $$workers tests/test_gpu.py; tests=$$?; \
	$(PYTHON) -m benchmarks.gpu_check --output $(OUT) && exit $$tests

bench: venv
	$(BIN)/python -m benchmarks.run --output $(OUT)

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,data,docs]'
	@touch $@

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
