# `make run` and `make test` need Python 3.10 or newer and nothing else; both set up the environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --build-constraints .ci/build-constraints.txt

.PHONY: run test test-all check format benchmarks clean

run: $(VENV)/.installed
	$(BIN)/python main.py --config protocols/quickstart.json
	@echo "Open the report in a browser. The other files are explained in ignite_trainer/README.md, Files of a run"

# Two workers with one thread each take half the time of one worker with two threads; tests in a file share fixtures.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: check
	$(PYTEST)

# Also the tests that start whole processes: torchrun, notebooks, browsers, the dry run of the GPU script; and those
# of other benchmarks.
test-all: test benchmarks
	$(PYTEST) -m "processes and not slow"

check: $(VENV)/.installed-for-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-for-tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# mteb and X-ARES; and HEAR in a folder of its own.
benchmarks: $(VENV)/.installed-for-benchmarks

clean:
	rm -rf $(VENV)

$(VENV)/.installed: requirements.txt .ci/build-constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, but this is %s. Name another: make PYTHON=python3.11" % sys.version.split()[0])'
	@echo "Setting up $(VENV) (5 GB with CUDA's libraries; only this once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed tests/requirements.txt demo/requirements.txt
	@$(INSTALL) -r tests/requirements.txt -r demo/requirements.txt
	@touch $@

BENCHMARKS := utils/benchmarks
$(VENV)/.installed-for-benchmarks: $(VENV)/.installed $(BENCHMARKS)/requirements.txt $(BENCHMARKS)/hear-requirements.txt
	@$(INSTALL) -r requirements.txt -r $(BENCHMARKS)/requirements.txt
	@$(INSTALL) --target $(VENV)/hear --no-deps -r $(BENCHMARKS)/hear-requirements.txt
	@touch $@
