# make run, make test: each does all its own set-up. make help lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An editable installation earns a warning of a dozen lines from setuptools, of which nothing is to be done here.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements.txt

# A virtual environment is good for one version of Python and one folder: for another it is made again.
FOR := $(shell $(PYTHON) -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null) in $(CURDIR)
MADE := $(VENV)/.made
ifneq ($(file <$(MADE)),$(FOR))
.PHONY: $(MADE)
endif

# One stamp for each set of packages: what is installed already is not looked at again.
RUN_STAMP := $(VENV)/.run
TEST_STAMP := $(VENV)/.test
BENCH_STAMP := $(VENV)/.bench
NODE_STAMP := build/js/.installed
PACKAGING := setup.cfg setup.py pyproject.toml requirements.txt requirements-production.txt

# What is tested on another Debian as well, and on which.
SUITE := trixie
PORTABLE := tests/unit tests/live/test_uploads.py tests/live/test_tus.py tests/live/test_xmpp.py tests/live/test_nginx.py tests/live/test_haproxy.py

.PHONY: help setup run servers test coverage test-uncovered mysqlclient test-debian fuzz lint hooks bench changelog lock hashes clean
.NOTPARALLEL:

help:
	@echo "make setup   the virtual environment in $(VENV)"
	@echo "make run     start the server: files in ./data, settings in ./config.toml"
	@echo "make test    install what the tests need and run them all, or those named: make test TESTS=tests/unit ARGS='-m \"not slow\"'"
	@echo "make coverage   run the unit tests and some live ones, and say which lines they left out; make test-uncovered: the others;"
	@echo "             both with JOBS=N in so many processes, but for the tests that must be alone"
	@echo "make test-debian   run a part of them on a fresh Debian 13, in a folder, as an ordinary user"
	@echo "make fuzz    look for inputs that break a rule: make fuzz SECONDS=600, the same again with SEED=N, some with FUZZ=pure"
	@echo "make lint    ruff, mypy, and whether the configuration of the hooks is valid"
	@echo "make hooks   run ruff and mypy before each commit here, and the unit tests before each push"
	@echo "make bench   measure against nginx, Go and a plain Flask view"
	@echo "make changelog   move the files of changes/ into CHANGELOG.md"
	@echo "make lock    pin the newest versions in requirements.txt, with their hashes in requirements-production.txt"
	@echo "make clean   remove what these made, but for config.toml and data"
	@echo "Another Python than python3: make PYTHON=python3.13 ..."

setup: $(RUN_STAMP)

# Debian packs the greater part of Python's venv module apart, as python3-venv.
$(MADE): export FOR := $(FOR)
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@complete() { $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; }; \
	complete || tests/install-servers python3-venv >/dev/null; \
	rm -rf $(VENV); \
	if complete; then $(PYTHON) -m venv $(VENV); \
	elif command -v virtualenv >/dev/null; then virtualenv --quiet --python $(PYTHON) $(VENV); \
	elif command -v uv >/dev/null; then uv venv --quiet --seed --python $(PYTHON) $(VENV); \
	else tests/make-venv '$(PYTHON)' $(VENV) \
	  || { echo "Python's venv module is incomplete; as root: apt-get install python3-venv" >&2; exit 1; }; fi
	@printf '%s\n' "$$FOR" >$@

$(RUN_STAMP): $(MADE) $(PACKAGING)
	@echo "installing the server into $(VENV)"
	@$(PIP) --require-hashes --only-binary :all: --requirement requirements-production.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_STAMP): $(RUN_STAMP)
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) --editable '.[redis,postgres,s3,test,lint]'
	@touch $@

# What the tests run in Node. Without npm, or without its registry, the tests of it are skipped.
$(NODE_STAMP): tests/live/js/package.json tests/live/js/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)
	@if ! command -v npm >/dev/null; then echo "not installed, for want of npm: what the tests run in Node"; \
	elif npm ci --prefix $(@D) --loglevel error --no-audit --no-fund >/dev/null; then touch $@; \
	else echo "not installed, since npm failed (see above): what the tests run in Node"; fi

$(BENCH_STAMP): $(TEST_STAMP)
	@$(PIP) --editable '.[bench]'
	@touch $@

config.toml: | $(RUN_STAMP)
	@$(BIN)/hmac-file-server -init $@

run: setup config.toml
	@exec $(BIN)/hmac-file-server -config config.toml -curl

servers:
	@PYTHON='$(PYTHON)' tests/install-servers $(SERVERS)

# mysqlclient is compiled, against headers that tests/install-servers installs where it may.
mysqlclient: $(TEST_STAMP)
	@if $(BIN)/python -c 'import MySQLdb' 2>/dev/null; then :; \
	elif { pkg-config --exists libmariadb || pkg-config --exists mysqlclient; } 2>/dev/null; then $(PIP) mysqlclient; \
	else echo "not installed, for want of the MySQL client's headers: mysqlclient"; fi

test: setup servers $(TEST_STAMP) mysqlclient $(NODE_STAMP)
	$(BIN)/python -m pytest $(ARGS) $(TESTS)

# What runs with a tracer. That costs up to as much processor time again, which what watches the clock must not pay. The
# folder of the figures is everybody's, since some servers run as another user.
COVERED := tests/unit $(patsubst %,tests/live/test_%.py,activation check downloads mounted_below session_stores start state_dir tus)

JOBS ?= 1
BESIDE = -m 'not alone' $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile)

coverage: setup servers $(TEST_STAMP) mysqlclient $(NODE_STAMP)
	@rm -rf build/coverage && mkdir -p build && mkdir -m 1777 build/coverage
	$(BIN)/python -m coverage run -m pytest $(BESIDE) $(ARGS) $(or $(TESTS),$(COVERED))
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

# All that "make coverage" leaves out.
test-uncovered: setup servers $(TEST_STAMP) mysqlclient $(NODE_STAMP)
	$(BIN)/python -m pytest $(BESIDE) $(ARGS) $(patsubst %,--ignore=%,$(COVERED))
	$(BIN)/python -m pytest -m alone $(ARGS)

# Other versions of the servers, another Python, a user who is not root.
test-debian: setup $(TEST_STAMP)
	@tests/install-servers debootstrap
	$(BIN)/python -m tests.on_debian $(SUITE) $(PORTABLE)

# SECONDS for each kind of fuzzer; without SEED one is made up, and printed.
fuzz: SECONDS ?= 60
fuzz: setup servers $(TEST_STAMP)
	$(BIN)/python -m tests.fuzz $(FUZZ) --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

lint: setup $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pre-commit validate-config

hooks: setup $(TEST_STAMP)
	$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

bench: setup servers $(BENCH_STAMP)
	@tests/install-servers valgrind
	$(BIN)/python -m bench $(BENCH)

changelog: setup
	@$(BIN)/python -m tests.changelog

# The hashes are the index's own, of every file of a release: with them pip takes no other, wherever it comes from.
LOCK := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --constraint requirements.txt \
  --no-header --no-annotate

lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade setuptools
	build/lock/bin/python -c 'import importlib.metadata as m; print("[build-system]\nrequires = [\"setuptools==%s\"]" % m.version("setuptools"))' >build/pyproject.toml
	mv build/pyproject.toml pyproject.toml
	build/lock/bin/python -m pip install --quiet --editable '.[all,test,lint,bench]'
	{ sed -n '/^#/p' requirements.txt; build/lock/bin/python -m pip freeze --exclude-editable; } > build/requirements.txt
	mv build/requirements.txt requirements.txt
	build/lock/bin/python -m pip install --quiet uv
	$(MAKE) --no-print-directory hashes
	rm -rf build/lock

# For the versions that are pinned already.
hashes:
	[ -x build/lock/bin/uv ] || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv; }
	sed -n 's/.*"\(setuptools==.*\)".*/\1/p' pyproject.toml >build/build.in
	echo mysqlclient >build/mysql.in
	{ sed -n '/^#/p' requirements-production.txt; $(LOCK) --extra redis --extra postgres --extra s3 setup.cfg build/build.in; } >build/production.txt
	{ sed -n '/^#/p' requirements-mysql.txt; $(LOCK) build/mysql.in; } >build/mysql.txt
	mv build/production.txt requirements-production.txt && mv build/mysql.txt requirements-mysql.txt

clean:
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/hmacfs-tests"
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
