# Two commands for a fresh machine with Python and git: `make demo` and `make test`.
# Each makes its own virtual environment and installs what pyproject.toml names.

PYTHON ?= python3
DEMO_ENV := .venv-demo
TEST_ENV := .venv-test
WHEEL_ENV := .venv-wheel

.PHONY: demo test lint docs wheel clean

demo: $(DEMO_ENV)/installed
	$(DEMO_ENV)/bin/data_generation --potential=styblinski_tang
	$(DEMO_ENV)/bin/python -m experiments.train --solver=jkonet-star-potential --run-name=demo --overwrite

test: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

lint: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy

docs: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# The wheel in an empty environment, tested from an empty directory.
wheel: $(TEST_ENV)/installed
	rm -rf build dist $(WHEEL_ENV)
	$(TEST_ENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip install --quiet --upgrade pip
	$(WHEEL_ENV)/bin/python -m pip install --quiet "$$(ls $(CURDIR)/dist/*.whl)[test]"
	cd "$$(mktemp -d)" && $(CURDIR)/$(WHEEL_ENV)/bin/python -m pytest $(CURDIR)/tests -n auto --maxprocesses=4 --dist=loadfile $(PYTEST)

$(DEMO_ENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/python -m pip install --quiet --upgrade pip
	$(DEMO_ENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(TEST_ENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/python -m pip install --quiet --upgrade pip
	$(TEST_ENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(DEMO_ENV) $(TEST_ENV) $(WHEEL_ENV) build dist docs/_build docs/reference/modules *.egg-info
