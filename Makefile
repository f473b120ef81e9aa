# Everything a person types. Needs make and Python >= 3.11 with pip and venv; the rest is fetched into $(VENV).
#
#   make demo     serve examples/demo with sample files         (PORT=8000 HOST=127.0.0.1)
#   make test     run all tests                                 (ARGS="-m 'not slow'" reaches pytest;
#                 those that need curl, wget, aria2c, nginx, haproxy or strace are skipped where it is missing,
#                 and fail instead with WITHOUT_TOOLS=0, as in .ci/run;
#                 two files of tests run at the same time; JOBS=0: one after the other)
#   make bench    measure it beside other servers               (ARGS="--quick": bench/README.md)
#   make lint     ruff and mypy, changing nothing
#   make format   let ruff rewrite the tree
#   make clean    remove everything that make made
#
# What is installed is remembered by stamp files inside $(VENV), so the second run goes straight to the point.

PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
FILES  ?= demo-files
ARGS   ?=
JOBS   ?= 2
WITHOUT_TOOLS ?= 1

BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test bench lint format clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.installed $(FILES)/SHA256SUMS
	@printf '\n  open   http://%s:%s/\n  or try curl -o /dev/null http://%s:%s/files/big.bin\n  stop   with Ctrl-C\n\n' \
	  $(HOST) $(PORT) $(HOST) $(PORT)
	@DEMO_FILES='$(FILES)' exec $(BIN)/trio-wsgi --bind $(HOST):$(PORT) --access-logfile - examples.demo.app:app

test: $(VENV)/.installed-test
	TESTS_WITHOUT_TOOLS=$(WITHOUT_TOOLS) $(BIN)/python -m pytest -rs -n $(JOBS) --dist loadfile $(ARGS)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(FILES) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(FILES)/SHA256SUMS: examples/demo/make_files.py | $(BIN)/pip
	$(BIN)/python examples/demo/make_files.py $(FILES)

# pip is the last thing that venv puts in place: a half-made environment is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is missing or older than 3.11; name another: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo '$(PYTHON) has no venv with pip (Debian: apt-get install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable '.[bench]'
	@touch $@ $(VENV)/.installed

# mypy reads the types of what the code imports where it is there: hence the test extra as well.
$(VENV)/.installed-lint: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed
