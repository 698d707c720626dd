# Two commands do all of their own set-up on a fresh machine:
#   make lab    JupyterLab on examples/quickstart.ipynb (PORT=8889 to choose the port)
#   make test   everything that CI runs
# The rest is for development: make check | test-py | test-js | build | dev | bench | bench-peers | findings | torture |
#   mutants | clean

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Targets share two cores and one cache: one at a time.
.NOTPARALLEL:

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Side by side, torch's own threads only get in each other's way.
export OMP_NUM_THREADS ?= 1

PORT ?=
PYTEST_ARGS ?= -n 2 --dist loadfile
STAMPS := .setup
SOURCES := $(shell find js/src js/*.json js/*.mjs js/*.ts -type f 2>/dev/null)

.PHONY: help lab test check test-py test-js test-old-transformers same-bundle build dev bench bench-peers findings torture mutants setup clean
help:
	@sed -n 's/^# \{0,1\}//;1,5p' Makefile

# --- set-up: each step leaves a stamp, so that a second run skips it
$(STAMPS):
	@mkdir -p $@

$(STAMPS)/venv: pyproject.toml demo-lenses/pyproject.toml constraints.txt scripts/make_venv | $(STAMPS)
	@scripts/make_venv
	@touch $@

$(STAMPS)/npm: js/package-lock.json $(STAMPS)/venv | $(STAMPS)
	@echo "npm packages ..."; cd js && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

$(STAMPS)/build: $(SOURCES) $(STAMPS)/npm
	@cd js && npm run --silent build
	@touch $@

$(STAMPS)/browser: scripts/find_browser $(STAMPS)/venv
	@echo "Browser: $$(scripts/find_browser --install)"
	@touch $@

# VS Code's own widget manager, for the browser tests.
$(STAMPS)/output_page: scripts/make_output_page $(wildcard tests/browser/output_page/*.*) $(STAMPS)/venv
	@scripts/make_output_page
	@touch $@

$(STAMPS)/demo: lenswidget/demo.py $(STAMPS)/venv
	@python -c "from lenswidget.demo import demo_folder; demo_folder(progress=print)"
	@touch $@

setup: $(STAMPS)/venv $(STAMPS)/npm $(STAMPS)/build $(STAMPS)/browser $(STAMPS)/output_page $(STAMPS)/demo

# --- what people run; an empty OMP_NUM_THREADS would be a red box in the notebook, so it is unset
lab: $(STAMPS)/venv $(STAMPS)/build $(STAMPS)/demo
	@exec env -u OMP_NUM_THREADS python scripts/lab.py "$(PORT)"

test: setup check test-js test-py test-old-transformers same-bundle

check: $(STAMPS)/venv $(STAMPS)/npm
	ruff format --check .
	ruff check .
	pyright
	cd js && npm run --silent lint && npm run --silent types

test-py: setup
	python -m pytest $(PYTEST_ARGS)

test-js: $(STAMPS)/npm
	cd js && npm run --silent test

# The tracing against the oldest transformers that is supported, laid over the same environment.
test-old-transformers: $(STAMPS)/venv
	scripts/test_old_transformers

# The bundle is committed so that installing needs no node; a rebuild must give the same bytes.
same-bundle: $(STAMPS)/npm
	scripts/same_bundle

build: $(STAMPS)/npm
	cd js && npm run build
	@touch $(STAMPS)/build

# Live reload: the bundle is rebuilt as its sources change, and anywidget swaps it in the open notebook. It then
# carries a source map: run `make build` before a commit.
dev: $(STAMPS)/venv $(STAMPS)/npm $(STAMPS)/demo
	@(cd js && npm run watch) & trap "kill $$! 2>/dev/null || true" EXIT; env -u OMP_NUM_THREADS ANYWIDGET_HMR=1 python scripts/lab.py "$(PORT)"

bench: setup
	@for f in benchmarks/*.py; do echo "== $$f"; OMP_NUM_THREADS=2 python "$$f"; done

# Readouts beside nnsight, TransformerLens and tuned-lens, which get an environment of their own.
bench-peers:
	@scripts/make_peers
	OMP_NUM_THREADS=2 .venv-peers/bin/python benchmarks/readout.py $(BENCH_ARGS)

# How other libraries behave, each in an environment of its own: no part of CI.
findings:
	@findings/run

# The long campaign of faults behind docs/reliability.md: no part of CI, which runs a share of it.
torture: $(STAMPS)/venv $(STAMPS)/build
	@python scripts/torture.py $(TORTURE_ARGS)

# One change in the source at a time: how many do the tests notice? Cosmic Ray has an environment of its own.
mutants: setup
	@[ -x .venv-mutants/bin/python ] || python -m venv .venv-mutants
	@.venv-mutants/bin/python -m pip install -qq cosmic-ray==8.7.0
	@.venv-mutants/bin/python scripts/mutants.py $(MUTANTS_ARGS)

clean:
	rm -rf .venv .venv-mutants .setup .old-transformers js/node_modules dist
