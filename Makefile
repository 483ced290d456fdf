# Two commands for a fresh machine with Python and git: `make demo` and `make test`.
# Each makes its own virtual environment and installs what pyproject.toml names. Another Python is another
# environment: `make test PYTHON=python3.13`. PYTEST takes arguments: `make test PYTEST="-m 'not slow'"`.

PYTHON ?= python3
OLDEST_PYTHON ?= $(shell .ci/find-python 3.11)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
DEMO_ENV := .venv-demo-$(VERSION)
TEST_ENV := .venv-test-$(VERSION)
WHEEL_ENV := .venv-wheel-$(VERSION)
SMOKE_ENV := .venv-smoke-$(VERSION)
LOWEST_ENV := .venv-lowest
IN_PARALLEL := -n auto --maxprocesses=4 --dist=loadfile

.PHONY: demo test test-lowest smoke attack gpu lint docs wheel clean

demo: $(DEMO_ENV)/installed
	$(DEMO_ENV)/bin/data_generation --potential=styblinski_tang
	$(DEMO_ENV)/bin/python -m experiments.train --solver=jkonet-star-potential --run-name=demo --overwrite

test: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/python -m pytest $(IN_PARALLEL) $(PYTEST)

# The fast tests with every dependency at its declared lower bound.
test-lowest: $(LOWEST_ENV)/installed
	$(LOWEST_ENV)/bin/python -m pytest $(IN_PARALLEL) -m "not slow" $(PYTEST)

# Kills, hostile flags, damaged files, poor environments: about 40 minutes of the processor (docs/reliability.md).
attack: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/python tests/robustness $(ATTACK)

# All that wants a GPU, for 25 minutes at most: GPU="--minutes=10". Install JAX for the card first (BUILD.md).
gpu:
	$(PYTHON) -m benchmarks.gpu $(GPU)

lint: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy

docs: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# The wheel without extras in an empty environment: every solver and every script, for seconds.
smoke: dist
	$(call new_environment,$(SMOKE_ENV),$(PYTHON))
	$(SMOKE_ENV)/bin/python -m pip install dist/*.whl
	$(SMOKE_ENV)/bin/python -P .ci/smoke.py

# The wheel with what the tests need in an empty environment: every test, from an empty directory.
wheel: dist
	$(call new_environment,$(WHEEL_ENV),$(PYTHON))
	$(WHEEL_ENV)/bin/python -m pip install "$$(ls $(CURDIR)/dist/*.whl)[test]"
	cd "$$(mktemp -d)" && $(CURDIR)/$(WHEEL_ENV)/bin/python -m pytest $(CURDIR)/tests $(IN_PARALLEL) $(PYTEST)

.PHONY: dist
dist:
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

define new_environment
	rm -rf $(1)
	$(2) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade pip
endef

$(DEMO_ENV)/installed: pyproject.toml
	$(call new_environment,$(DEMO_ENV),$(PYTHON))
	@echo "installing what pyproject.toml names into $(DEMO_ENV), some hundred MB the first time"
	$(DEMO_ENV)/bin/python -m pip install --editable .
	touch $@

$(TEST_ENV)/installed: pyproject.toml
	$(call new_environment,$(TEST_ENV),$(PYTHON))
	$(TEST_ENV)/bin/python -m pip install --editable '.[dev]'
	touch $@

$(LOWEST_ENV)/installed: pyproject.toml
	$(call new_environment,$(LOWEST_ENV),$(OLDEST_PYTHON))
	$(LOWEST_ENV)/bin/python .ci/lowest.py > $(LOWEST_ENV)/constraints.txt
	$(LOWEST_ENV)/bin/python -m pip install --constraint $(LOWEST_ENV)/constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv-demo* .venv-test* .venv-wheel* .venv-smoke* .venv-lowest dist docs/_build docs/reference/modules
