# make demo: set up, train the default job and test it.  make test: set up and run the tests.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint setup gpu-check clean

setup: $(VENV)/installed
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	$(RUN) tools/make_shapes.py
	$(RUN) tools/train_net.py --solver prototxt/solver.prototxt
	$(RUN) tools/test_net.py --compare

test: setup
	$(RUN) -m pytest

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf output build dist *.egg-info
