# Two commands: `make demo` runs the whole story on this machine, `make test` passes the tests.
# pip's own settings (index, cache, certificates) are the user's.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test quick lint types openapi audit install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/supple demo $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

types: $(INSTALLED)
	$(BIN)/mypy

# Known vulnerabilities of the versions in constraints.txt. Says "skipped" where the vulnerability service cannot be reached.
audit: $(INSTALLED)
	$(BIN)/python .ci/audit.py

test: lint types
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# What the API is, for clients that are generated and for reviews. A test says when it is to be written again.
openapi: $(INSTALLED)
	$(BIN)/python docs/write_openapi.py docs/openapi.json

# On SQLite alone, without what takes seconds.
quick: $(INSTALLED)
	$(BIN)/pytest -n auto --maxprocesses 4 -m 'not slow' -k 'not postgresql' $(ARGS)
