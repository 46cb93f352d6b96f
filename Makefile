# make demo | check | test | bench | gpu-check | wheel-check | lint | sanitize | races: each creates .venv and builds what it needs;
# unchanged re-runs build nothing. PYTHON names the interpreter, CXX the C++ compiler (none: pure Python), TRACIN_CUDA=OFF
# leaves nvcc aside, PIP_FLAGS adds options for pip, for example
# PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the small build of torch.
PYTHON ?= python3
PIP_FLAGS ?=
SANITIZE ?= address,undefined
TRACIN_CUDA ?= AUTO

BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --constraint constraints.txt

ifeq ($(origin CXX),default)
  CXX := $(firstword $(foreach name,c++ g++ clang++,$(shell command -v $(name))))
endif
HAVE_CXX := $(shell command -v $(firstword $(CXX)))
export CXX TRACIN_CUDA

.PHONY: demo check test bench lint sanitize races cpp-test wheel-check gpu-check build clean FORCE

demo: build
	$(BIN)/python -m tracin.cli.demo --output results/demo

# Two processes; threads that wait sleep, as there are more of them than cores.
test: build lint cpp-test
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

bench: build .venv/stamp-bench
	$(BIN)/python -m bench $(if $(QUICK),--quick)

# What to run after every change: style, types, rooms, and the tests that take no more than a second.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not slow"

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files 'csrc/*' 'tests/*.cpp' 'tests/*.h' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy
	$(BIN)/lint-imports

build: .venv/stamp-build

.venv/stamp-torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	touch $@

# The build tools as pyproject.toml lists them: the install below runs without pip's isolation and keeps CMake's cache.
.venv/stamp-tools: pyproject.toml .venv/stamp-torch
	$(PIP) $(shell sed -n '/^\[build-system\]/,/^$$/s/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | tr , ' ')
	touch $@

.venv/stamp-build: setup.py CMakeLists.txt $(wildcard csrc/* csrc/*/*) .venv/compiler .venv/stamp-tools
	TRACIN_EXT=$(if $(HAVE_CXX),require) $(PIP) --no-build-isolation --editable '.[test]'
	$(BIN)/python -c "import tracin_ext; s = tracin_ext.status(); print('tracin_ext:', s['reason'] or s['isa'])"
	touch $@

.venv/stamp-bench: pyproject.toml .venv/stamp-build
	$(PIP) --no-build-isolation --editable '.[bench]'
	touch $@

# Changes only when the choice of compilers does, so that `make CXX=other` builds again.
.venv/compiler: FORCE | .venv/stamp-torch
	@echo '$(CXX) $(TRACIN_CUDA)' | cmp -s - $@ || echo '$(CXX) $(TRACIN_CUDA)' > $@

FORCE:

ifeq ($(HAVE_CXX),)
cpp-test sanitize races:
	@echo "C++ tests skipped: no C++ compiler (CXX=$(CXX))"
else
cpp-test: sanitize races
sanitize races cpp-test: build
sanitize: OPTIONS := -DTRACIN_SANITIZE=$(SANITIZE)
races: OPTIONS := -DTRACIN_SANITIZE=thread
races: ONLY := --target emulated test_team
cpp-test sanitize races:
	$(BIN)/cmake -S . -B build/$@ -G Ninja --log-level=ERROR -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DTRACIN_MODULE=OFF -DTRACIN_TESTS=ON $(OPTIONS)
	$(BIN)/cmake --build build/$@ $(ONLY) -- --quiet
	$(BIN)/ctest --test-dir build/$@ --output-on-failure $(if $(ONLY),-L raced)
endif

# A wheel with and one without CUDA kernels, each in a fresh environment.
wheel-check: build
	$(BIN)/python tests/wheel_check.py

# On a machine with a GPU: builds the CUDA kernels, tests them, checks them with compute-sanitizer, measures them.
gpu-check:
	$(MAKE) TRACIN_CUDA=ON .venv/stamp-bench
	$(BIN)/python -m bench.gpu_check $(if $(QUICK),--quick)

clean:
	rm -rf .venv build results/demo *.egg-info python/*.egg-info tracin_ext/_C.* tracin_ext/libtracin_ext.* tracin_ext/_build_error.txt
