# make demo: set up, train the default job and test it.  make test: set up and run the tests.  make install: set up.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: demo install test lint gpu-check clean

demo: $(VENV)/installed
	$(RUN) tools/make_shapes.py
	$(RUN) tools/train_net.py --solver prototxt/solver.prototxt
	$(RUN) tools/test_net.py --compare

test: $(VENV)/installed-dev
	$(RUN) -m pytest

install: $(VENV)/installed

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev]'
	touch $@

# nothing is set up: it runs where nothing can be installed (docs/gpu.md), or with PYTHON=.venv/bin/python
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
