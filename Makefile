# make demo   sets everything up, trains the multi-scale U-Net on the built-in images, validates and predicts
# make test   sets everything up and runs the tests
# make test-slow   installs all extras and runs the slow tests
# make conformance   runs timm's own model tests on all backbones
# make gpu-check   checks a CUDA device in eight minutes at most; DATA=FOLDER trains on CamVid there
# PYTHON      the interpreter that creates .venv, 3.10 or newer

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
EXTRAS := $(VENV)/installed-extras
# Each worker holds torch and its models in memory
PARALLEL := -n auto --maxprocesses 4

.PHONY: help setup demo test test-slow conformance gpu-check lint clean

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
	$(RUN) -m pip install --quiet --editable '.[dev,export,geo,app,browser,coco,stream,log]'
	@touch $(EXTRAS)

demo: $(INSTALLED)
	$(RUN) scripts/demo.py

lint: $(INSTALLED)
	$(RUN) -m ruff check .

test: lint
	$(RUN) -m pytest $(PARALLEL) -m "not slow"

test-slow: $(EXTRAS)
	$(RUN) -m pytest $(PARALLEL) -m slow

conformance: $(INSTALLED)
	$(RUN) tests/conformance.py

gpu-check: $(INSTALLED)
	$(RUN) scripts/gpu_check.py $(if $(DATA),--data "$(DATA)")

clean:
	rm -rf $(VENV) .cache build dist *.egg-info output
