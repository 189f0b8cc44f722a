# make run, make test: each does all its own set-up. make help lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements.txt

# One stamp for each set of packages: what is installed already is not looked at again.
RUN_STAMP := $(VENV)/.run
TEST_STAMP := $(VENV)/.test
BENCH_STAMP := $(VENV)/.bench
PACKAGING := setup.cfg pyproject.toml requirements.txt

.PHONY: help setup run test lint bench lock clean

help:
	@echo "make setup   the virtual environment in $(VENV)"
	@echo "make run     start the server: files in ./data, settings in ./config.toml"
	@echo "make test    install what the tests need and run them all"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measure against nginx, Go and a plain Flask view"
	@echo "make lock    pin the newest versions in requirements.txt"
	@echo "make clean   remove what these made, but for config.toml and data"

setup: $(RUN_STAMP)

# A Debian without python3-venv has no ensurepip: install it where that is allowed, else say what is missing.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 && exit 0; rm -rf $(VENV); \
	  if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	    echo "installing python3-venv"; \
	    run=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	    $$run apt-get -qq update && $$run env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
	      --no-install-recommends python3-venv >/dev/null; \
	    $(PYTHON) -m venv $(VENV); \
	  elif command -v virtualenv >/dev/null; then virtualenv --quiet --python $(PYTHON) $(VENV); \
	  else echo "Python's venv module is missing: install python3-venv (as root: apt-get install python3-venv)" >&2; exit 1; fi

$(RUN_STAMP): $(BIN)/python $(PACKAGING)
	@echo "installing the server into $(VENV)"
	@$(PIP) --only-binary :all: --editable '.[redis,postgres,metrics,limits]'
	@touch $@

# mysqlclient is compiled against the MySQL client's headers, which tests/install-servers installs where it may.
$(TEST_STAMP): $(RUN_STAMP) tests/install-servers
	@tests/install-servers
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) --editable '.[redis,postgres,metrics,limits,test,lint]'
	@$(PIP) --editable '.[mysql]' >/dev/null 2>&1 || echo "mysqlclient cannot be built here: its tests are skipped"
	@touch $@

$(BENCH_STAMP): $(TEST_STAMP)
	@$(PIP) --editable '.[bench]'
	@touch $@

config.toml: | $(RUN_STAMP)
	@$(BIN)/hmac-file-server -init $@

run: $(RUN_STAMP) config.toml
	@exec $(BIN)/hmac-file-server -config config.toml -curl

test: setup $(TEST_STAMP)
	$(BIN)/python -m pytest $(TESTS)

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BENCH_STAMP)
	$(BIN)/python -m bench $(BENCH)

lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --editable '.[redis,postgres,mysql,metrics,limits,test,lint,bench]'
	{ sed -n '/^#/p' requirements.txt; build/lock/bin/python -m pip freeze --exclude-editable; } > build/requirements.txt
	mv build/requirements.txt requirements.txt && rm -rf build/lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
