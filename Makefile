# Everything from nothing but Python >= 3.10 and Debian packages. `make` alone lists the targets.
#
# One virtual environment, .venv, holds the tools and the package as its users get it: the built wheel. Each step leaves
# a stamp, so that a second call does only what changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
TOURS := $(sort $(wildcard notebooks/*.ipynb))
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

SOURCES := pyproject.toml README.md LICENSE $(shell find flyte_notebook -not -name '__pycache__' -not -name '*.pyc')

## lab: open JupyterLab on the first tour; the others are beside it
.PHONY: lab
lab: $(VENV)/.lab $(VENV)/.package
	exec "$(BIN)/jupyter" lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) \
	    --ServerApp.root_dir="$(CURDIR)/notebooks" --LabApp.default_url="/lab/tree/$(notdir $(firstword $(TOURS)))" $(ARGS)

## demo: run the tours without a browser and leave their pages in build/demo
.PHONY: demo
demo: $(VENV)/.lab $(VENV)/.package
	mkdir -p build/demo
	"$(BIN)/jupyter" nbconvert --log-level=WARN --execute --to=html --output-dir=build/demo $(ARGS) $(TOURS)
	@printf '%s\n' $(patsubst notebooks/%.ipynb,build/demo/%.html,$(TOURS))

## test: build the wheel and run the tests against it as installed; ARGS="-k word" narrows
# The tests run in an empty directory: "" on sys.path, in pytest or in any Python that a test starts, must not find the
# source tree.
.PHONY: test
test: $(VENV)/.test $(VENV)/.package
	@mkdir -p build/tests
	@cd build/tests && FLYTE_NOTEBOOK_TEST_WHEEL="$$(cat "$(CURDIR)/build/dist/.wheel")" \
	    exec "$(BIN)/pytest" -c "$(CURDIR)/pyproject.toml" --rootdir="$(CURDIR)" $(ARGS) "$(CURDIR)/tests"

## test-sdk: run the tests of the contract with the SDK on the oldest supported version; the newest is in .venv
# The oldest version is the lower bound in pyproject.toml.
SDK_TESTS := tests/sdk tests/engine/test_deaths.py tests/engine/test_features.py tests/engine/test_semantics.py \
    tests/test_errors.py tests/test_diagnosis.py
.PHONY: test-sdk
test-sdk: .venv-sdk/.made build/dist/.wheel
	@mkdir -p build/tests
	"$(CURDIR)/.venv-sdk/bin/pip" install --quiet --no-deps --no-index --force-reinstall "$$(cat build/dist/.wheel)"
	cd build/tests && "$(CURDIR)/.venv-sdk/bin/pytest" -c "$(CURDIR)/pyproject.toml" --rootdir="$(CURDIR)" \
	    -p no:cacheprovider $(ARGS) $(addprefix "$(CURDIR)/,$(addsuffix ",$(SDK_TESTS)))

.venv-sdk/.made: $(VENV)/.made pyproject.toml | build/dist/.wheel
	@rm -rf .venv-sdk && "$(BIN)/python" -m venv .venv-sdk
	oldest="$$(sed -n 's/.*"flyte>=\([0-9.]*\),.*/\1/p' pyproject.toml)"; \
	    .venv-sdk/bin/pip install --quiet "$$(cat build/dist/.wheel)[test]" "flyte==$$oldest.*"
	@touch $@

## check: lint, format, types, architecture
.PHONY: check
check: $(VENV)/.lint $(VENV)/.test $(VENV)/.package
	@status=0; \
	"$(BIN)/ruff" check --output-format=concise . || status=1; \
	"$(BIN)/ruff" format --check . || status=1; \
	"$(BIN)/mypy" || status=1; \
	"$(BIN)/pytest" --quiet --no-header tests/test_architecture.py || status=1; \
	exit $$status

## bench: run each benchmark
.PHONY: bench
bench: $(VENV)/.test $(VENV)/.bench $(VENV)/.package
	@shopt -s nullglob; found=(benchmarks/bench_*.py); \
	((0 < $${#found[@]})) || { echo "benchmarks/ holds no bench_*.py" >&2; exit 1; }; \
	status=0; \
	for file in "$${found[@]}"; do echo "== $$file"; "$(BIN)/python" "$$file" $(ARGS) || status=1; done; \
	exit $$status

## soak: run 5,000 actions with failures of every kind, and see that nothing stays; ARGS=300 runs fewer
.PHONY: soak
soak: $(VENV)/.test $(VENV)/.package
	"$(BIN)/python" benchmarks/soak.py $(ARGS)

## wheel: build the wheel into build/dist
.PHONY: wheel
wheel: build/dist/.wheel
	@cat $<

## clean: remove what the other targets made
.PHONY: clean
clean:
	rm -rf build $(VENV) .venv-sdk .mypy_cache .pytest_cache .ruff_cache
	find flyte_notebook tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help:
	@sed -n 's/^## /make /p' Makefile

# The first Python that is new enough and can make a virtual environment with pip in it: Debian's python3 cannot before
# python3-venv is installed. PYTHON=/path/to/python chooses another.
PYTHON ?=
$(VENV)/.made:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	        "$$python" -m venv --clear $(VENV); touch $@; exit 0; \
	    fi; \
	done; \
	echo "No Python >= 3.10 that can make a virtual environment was found." >&2; \
	echo "On Debian and Ubuntu: apt install python3 python3-venv. Or: make PYTHON=/path/to/python ..." >&2; \
	exit 1

# The name of the wheel stands in the stamp.
build/dist/.wheel: $(SOURCES) | $(VENV)/.made
	@rm -rf build/dist && mkdir -p build/dist
	"$(BIN)/pip" wheel --quiet --no-deps --wheel-dir=build/dist .
	@printf '%s\n' "$(CURDIR)"/build/dist/*.whl > $@

# One stamp for each extra of pyproject.toml, made anew when versions there change.
$(VENV)/.lab $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.made pyproject.toml | build/dist/.wheel
	"$(BIN)/pip" install --quiet "$$(cat build/dist/.wheel)[$*]"
	@touch $@

# The pools that benchmarks stand beside. Not each of them has a wheel for each Python and each machine: what cannot be
# installed is a line in a table, so without the extra as a whole they are tried one by one.
$(VENV)/.bench: $(VENV)/.made pyproject.toml | build/dist/.wheel
	@"$(BIN)/pip" install --quiet "$$(cat build/dist/.wheel)[bench]" || \
	    sed -n '/^bench = \[/,/^\]/s/^ *"\(.*\)",.*/\1/p' pyproject.toml | while read -r pool; do \
	        "$(BIN)/pip" install --quiet "$$pool" </dev/null || echo "not installed: $$pool" >&2; \
	    done
	@touch $@

# The package alone, again after each change of its sources: the version is the same, so pip must be told.
$(VENV)/.package: build/dist/.wheel | $(VENV)/.made
	"$(BIN)/pip" install --quiet --no-deps --no-index --force-reinstall "$$(cat $<)"
	@touch $@
