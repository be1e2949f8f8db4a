# `make run` and `make test` need Python 3.10 or newer and nothing else; both set up the environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A company's own certificates are only known to the system, where neither uv nor pip before 24.2 looks by itself.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SYSTEM_CERTS := import ssl; paths = ssl.get_default_verify_paths(); print(paths.cafile or paths.capath or "")
UV := UV_SYSTEM_CERTS=true $(BIN)/uv pip
INSTALL := $(UV) install --quiet --python $(BIN)/python --build-constraints .ci/build-constraints.txt
# With another build of torch, such as UV_TORCH_BACKEND=cpu, the versions are the same but the files are not.
ifdef UV_TORCH_BACKEND
LOCKED := --no-verify-hashes --constraints requirements.lock -r pyproject.toml --extra train
else
LOCKED := --require-hashes -r requirements.lock
endif

.PHONY: run test test-all test-oldest test-newest check format lock benchmarks clean

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

# The tests with the lowest and the highest supported versions of Python and of all packages.
OLDEST := python3.10
NEWEST := python3.13

test-oldest:
	$(MAKE) test-resolved VENV=.venv-oldest PYTHON=$(OLDEST) RESOLUTION=lowest-direct

test-newest:
	$(MAKE) test-resolved VENV=.venv-newest PYTHON=$(NEWEST) RESOLUTION=highest

.PHONY: test-resolved
test-resolved: $(VENV)/.uv
	$(INSTALL) --upgrade --resolution $(RESOLUTION) $(ALL)
	$(UV) list --python $(BIN)/python | grep -E "^(torch|torchvision|torchaudio|numpy|pytorch-ignite|pydantic) "
	$(PYTEST)

check: $(VENV)/.installed-for-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-for-tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# mteb and X-ARES; and HEAR in a folder of its own.
benchmarks: $(VENV)/.installed-for-benchmarks

# Updates requirements.lock to pyproject.toml; pinned versions stay unless UPGRADE says otherwise: UPGRADE=--upgrade.
lock: $(VENV)/.uv
	$(UV) compile pyproject.toml --extra train --output-file requirements.lock --universal --python-version 3.10 \
	  --generate-hashes --no-annotate --no-header --quiet --build-constraints .ci/build-constraints.txt $(UPGRADE)

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest build

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, but this is %s. Name another: make PYTHON=python3.11" % sys.version.split()[0])'
	@echo "Setting up $(VENV) (5 GB with CUDA's libraries; only this once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(PIP) uv 2>/dev/null || $(PIP) --cert "$$($(BIN)/python -c '$(SYSTEM_CERTS)')" uv
	@touch $@

$(VENV)/.installed: $(VENV)/.uv requirements.lock .ci/build-constraints.txt
	@$(INSTALL) $(LOCKED)
	@touch $@

ALL := -r pyproject.toml --all-extras --group test
$(VENV)/.installed-for-tests: $(VENV)/.installed pyproject.toml
	@$(INSTALL) --no-verify-hashes --constraints requirements.lock $(ALL)
	@touch $@

BENCHMARKS := utils/benchmarks
$(VENV)/.installed-for-benchmarks: $(VENV)/.installed-for-tests $(BENCHMARKS)/requirements.txt $(BENCHMARKS)/hear-requirements.txt
	@$(INSTALL) --no-verify-hashes --constraints requirements.lock $(ALL) -r $(BENCHMARKS)/requirements.txt
	@$(INSTALL) --target $(VENV)/hear --no-deps -r $(BENCHMARKS)/hear-requirements.txt
	@touch $@
