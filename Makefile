# Everything from nothing but a Python that the lock fits, and Debian packages. `make` alone lists the targets.
#
# One virtual environment, .venv, holds the tools, in the versions of requirements.lock, and the package as its users get
# it: the built wheel. Each step leaves a stamp, so that a second call does only what changed. Lanes are the same with
# another Python or other versions: `make test` in an environment of their own, on the tests that concern them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
LOCK := requirements.lock
BIN := $(CURDIR)/$(VENV)/bin
DIST := build/dist$(VENV:.venv%=%)
CHAPTERS := $(sort $(wildcard notebooks/*.ipynb))
TESTS := tests
# Files of tests go to whichever of several processes has nothing to do; tests/conftest.py says how many there are.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder
OPTIONS := $(SIDE_BY_SIDE)
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

SOURCES := pyproject.toml README.md LICENSE $(shell find flyte_notebook -not -name '__pycache__' -not -name '*.pyc')

## lab: open JupyterLab on the first chapter of the course; the others are beside it
.PHONY: lab
lab: $(VENV)/.lab $(VENV)/.package
	exec "$(BIN)/jupyter" lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) \
	    --ServerApp.root_dir="$(CURDIR)/notebooks" --LabApp.default_url="/lab/tree/$(notdir $(firstword $(CHAPTERS)))" $(ARGS)

## demo: run the chapters of the course without a browser and leave their pages in build/demo
.PHONY: demo
demo: $(VENV)/.lab $(VENV)/.package
	mkdir -p build/demo
	"$(BIN)/jupyter" nbconvert --log-level=WARN --execute --to=html --output-dir=build/demo $(ARGS) $(CHAPTERS)
	@printf '%s\n' $(patsubst notebooks/%.ipynb,build/demo/%.html,$(CHAPTERS))

## course: make the notebooks of the course from notebooks/source, run them, save copies with outputs, print in build/course
.PHONY: course
course: $(VENV)/.test $(VENV)/.package
	"$(BIN)/python" notebooks/source/make_course.py saved $(ARGS)

## reset: give a learner clean notebooks; those that were changed are kept in notebooks/mine
.PHONY: reset
reset: $(VENV)/.test
	"$(BIN)/python" notebooks/source/make_course.py reset

## test: build the wheel and run the tests against it as installed; ARGS="-k word" narrows
# The tests run in an empty directory: "" on sys.path, in pytest or in any Python that a test starts, must not find the
# source tree.
.PHONY: test
test: $(VENV)/.test $(VENV)/.package
	@mkdir -p build/tests
	@cd build/tests && FLYTE_NOTEBOOK_TEST_WHEEL="$$(cat "$(CURDIR)/$(DIST)/.wheel")" \
	    exec "$(BIN)/pytest" -c "$(CURDIR)/pyproject.toml" --rootdir="$(CURDIR)" $(OPTIONS) $(ARGS) \
	    $(patsubst %,"$(CURDIR)/%",$(TESTS))

## quick: run what needs no browser, no notebook kernel and no limits, and a little of what does, in less than a minute
.PHONY: quick
quick:
	@$(MAKE) --no-print-directory test OPTIONS='$(SIDE_BY_SIDE) --quiet \
	    --ignore="$(CURDIR)/tests/test_architecture.py" -m "quick or not ($(REAL))"'
REAL := alone or browser or cgroup or cgroup_v1 or jupyter or slow

## pictures: make pictures of what the browser tests show, in build/screenshots, and the one of README.md
.PHONY: pictures
pictures:
	@FLYTE_NOTEBOOK_TEST_PICTURES=1 $(MAKE) --no-print-directory test TESTS=tests/browser OPTIONS=
	@cp build/screenshots/card_with_form_light.png notebooks/images/card.png

## numbers: measure what README.md says that its cells need, and write the numbers into it
.PHONY: numbers
numbers: $(VENV)/.test $(VENV)/.package
	@"$(BIN)/python" tests/readme_numbers.py

## coverage: run all tests with coverage of each process that they start, and say how much of the package they reach
# Some tests measure memory and time, and fail with it: the number is what this is for.
COVERAGE := $(CURDIR)/build/coverage
.PHONY: coverage
coverage: $(VENV)/.test $(VENV)/.package
	@rm -rf "$(COVERAGE)"; mkdir -p "$(COVERAGE)"
	-@COVERAGE_PLACE="$(COVERAGE)" COVERAGE_PROCESS_START="$(CURDIR)/pyproject.toml" $(MAKE) --no-print-directory test
	@export COVERAGE_PLACE="$(COVERAGE)"; "$(BIN)/coverage" combine --quiet; "$(BIN)/coverage" html --quiet -d "$(COVERAGE)/html"; \
	"$(BIN)/coverage" report; \
	for room in flyte_notebook/*/; do \
	    printf '%4s%%  %s\n' "$$("$(BIN)/coverage" report --format=total --include="$$room*")" "$$room"; \
	done; \
	printf '%4s%%  in all\n' "$$("$(BIN)/coverage" report --format=total)"

LANE = $(MAKE) --no-print-directory test OPTIONS='-p no:cacheprovider $(SIDE_BY_SIDE)'

# What stands on other people's behaviour: the SDK's, the pickler's, Python's, IPython's and its kernel's; and the guide.
RELIED := tests/test_relied.py tests/notebook/test_relied_in_kernels.py
GUIDE := tests/engine/test_examples.py::test_the_program_of_the_guide_does_what_the_guide_says \
    tests/notebook/test_kernel_runs.py
RELYING := $(RELIED) $(GUIDE) tests/test_wheel.py tests/test_errors.py tests/test_diagnosis.py tests/cells \
    $(addprefix tests/sdk/test_,seam.py lazy.py types.py celltask.py) \
    $(addprefix tests/worker/test_,pickling.py named_pickles.py code_objects.py) \
    $(addprefix tests/errors/test_,cluster_rows.py memory_errors.py nested_errors.py) \
    $(addprefix tests/engine/test_,deaths.py features.py semantics.py which_line.py) \
    $(addprefix tests/notebook/test_,loop.py output.py shell_pump.py magic_body.py code_of_cells.py what_is_missing.py) \
    tests/notebook/test_reruns.py::test_a_rerun_that_passes_gives_the_notebook_its_outputs

## test-oldest: run the tests that stand on other people's behaviour with the lowest versions that pyproject.toml allows
# The oldest SDK leaves sockets of its loops open: whichever test collects one is not to blame.
.PHONY: test-oldest
test-oldest:
	@$(LANE) VENV=.venv-oldest LOCK=requirements-oldest.lock TESTS='$(RELYING)' \
	    OPTIONS='-p no:cacheprovider $(SIDE_BY_SIDE) -W default::pytest.PytestUnraisableExceptionWarning'

## test-newest: run the same tests with the newest of everything, as `pip install` takes it; warnings are no errors
.PHONY: test-newest
test-newest:
	@$(LANE) VENV=.venv-newest LOCK= OPTIONS='-p no:cacheprovider $(SIDE_BY_SIDE) -W default' TESTS='$(RELYING)'

## test-python: run the guide's program, cells, lines and what we rely on with each Python; PYTHONS="3.13 /a/python" names them
PYTHONS := 3.11 3.12 3.13 3.14 3.15
PYTHON_TESTS := $(RELIED) $(GUIDE) tests/cells tests/errors/test_bad_errors.py tests/engine/test_which_line.py \
    $(addprefix tests/worker/test_,allocation.py pickling.py code_objects.py pystack.py shapes.py) \
    $(addprefix tests/notebook/test_,loop.py shell_pump.py magic_body.py)
.PHONY: test-python
test-python:
	@shopt -s nullglob; ran=() missing=() status=0; \
	for wanted in $(PYTHONS); do \
	    for python in "$$wanted" "python$$wanted" $(PYENV)/"$$wanted"{,.*}/bin/python ""; do \
	        ! version="$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || break; \
	    done; \
	    [[ $$python ]] || { missing+=("$$wanted"); continue; }; \
	    echo "== $$python"; SECONDS=0; said=passed; \
	    $(LANE) VENV=".venv-$$version" PYTHON="$$python" TESTS='$(PYTHON_TESTS)' || { said=failed; status=1; }; \
	    ran+=("$$wanted $$said in $$SECONDS s"); \
	done; \
	printf '%s\n' "$${ran[@]-none was found}"; \
	((0 == $${#missing[@]})) || { echo "not found: $${missing[*]}"; $(if $(filter file,$(origin PYTHONS)),,status=1); }; \
	exit $$status

## update-lock: take the newest of everything into the locks; ARGS="--upgrade-package NAME" takes only one
.PHONY: update-lock
update-lock:
	@$(MAKE) --no-print-directory VENV=.venv-lock LOCK= .venv-lock/.made
	.venv-lock/bin/pip install --quiet --upgrade uv
	.venv-lock/bin/python .ci/lock.py update $(or $(ARGS),--upgrade)

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

## soak: run 5,000 actions with failures of every kind and 300 cells, and see that nothing stays; ARGS=300 runs fewer actions
.PHONY: soak
soak: $(VENV)/.test $(VENV)/.package
	"$(BIN)/python" benchmarks/soak.py $(ARGS)
	FLYTE_NOTEBOOK_TEST_CELLS=300 $(MAKE) --no-print-directory test OPTIONS= TESTS=tests/notebook/test_endurance.py ARGS=

## wheel: build the wheel into build/dist
.PHONY: wheel
wheel: $(DIST)/.wheel
	@cat $<

## clean: remove what the other targets made
.PHONY: clean
clean:
	rm -rf build .venv .venv-* .mypy_cache .pytest_cache .ruff_cache
	find flyte_notebook tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help:
	@sed -n 's/^## /make /p' Makefile

# The first Python that the lock fits and that can make a virtual environment with pip in it. PYTHON=/path/to/python
# chooses another. Where none does, the reason of the first that is there is what is said, before anything is installed.
PYTHON ?=
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
CHOICE := python3 $(addprefix python,3.15 3.14 3.13 3.12 3.11) /usr/bin/python3 $(wildcard $(PYENV)/3.*/bin/python)
$(VENV)/.made: $(LOCK)
	@why=; \
	for python in $(or $(PYTHON),$(CHOICE)); do \
	    if said="$$("$$python" .ci/lock.py fits $(LOCK) 2>/dev/null)"; then \
	        "$$python" -m venv --clear $(VENV); touch $@; exit 0; \
	    fi; \
	    why="$${why:-$$said}"; \
	done; \
	echo "$${why:-No Python was found: make PYTHON=/path/to/python. On Debian and Ubuntu: apt install python3-venv.}" >&2; \
	exit 1

ifneq ($(LOCK),)

# One stamp for each extra of pyproject.toml, and one for what builds the wheel: each installs its part of the lock.
$(VENV)/.build $(VENV)/.lab $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.made pyproject.toml
	@"$(BIN)/python" .ci/lock.py select $(LOCK) $* >$(VENV)/$*.txt
	"$(BIN)/pip" install --quiet --require-hashes -r $(VENV)/$*.txt
	@touch $@

else

# What is the newest has to be asked each time, and what builds the wheel too: pip takes the newest of it by itself.
$(VENV)/.test: $(DIST)/.wheel FORCE
	"$(BIN)/pip" install --quiet --upgrade --upgrade-strategy=eager "$$(cat $<)[test]"
$(VENV)/.build: $(VENV)/.made
	@touch $@
FORCE:

endif

# The name of the wheel stands in the stamp.
$(DIST)/.wheel: $(SOURCES) | $(VENV)/.build
	@rm -rf $(DIST) && mkdir -p $(DIST)
	"$(BIN)/pip" wheel --quiet --no-deps $(if $(LOCK),--no-build-isolation) --wheel-dir=$(DIST) .
	@printf '%s\n' "$(CURDIR)"/$(DIST)/*.whl > $@

# The pools that benchmarks stand beside are in no lock. Not each of them has a wheel for each Python and each machine:
# what cannot be installed is a line in a table, so without the extra as a whole they are tried one by one. What is
# locked stays as it is.
$(VENV)/.bench: $(VENV)/.test pyproject.toml | $(DIST)/.wheel
	@sed -n 's/^\([a-z][^\\]*\) \\$$/\1/p' $(LOCK) >$(VENV)/pins.txt
	@"$(BIN)/pip" install --quiet -c $(VENV)/pins.txt "$$(cat $(DIST)/.wheel)[bench]" || \
	    sed -n '/^bench = \[/,/^\]/s/^ *"\(.*\)",.*/\1/p' pyproject.toml | while read -r pool; do \
	        "$(BIN)/pip" install --quiet -c $(VENV)/pins.txt "$$pool" </dev/null || echo "not installed: $$pool" >&2; \
	    done
	@touch $@

# The package alone, again after each change of its sources: the version is the same, so pip must be told.
$(VENV)/.package: $(DIST)/.wheel $(VENV)/.made
	"$(BIN)/pip" install --quiet --no-deps --no-index --force-reinstall "$$(cat $<)"
	@touch $@

## test-vm: run the tests that lean on the kernel in a machine with cgroup v2, emulated and slow; ARGS="-k word" chooses
# The first time builds the machine's image, which needs root; docs/vm.md.
.PHONY: test-vm
test-vm: $(DIST)/.wheel
	@exec "$(BIN)/python" tests/vm/run.py "$$(cat $<)" $(ARGS)
