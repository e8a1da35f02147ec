# make train ALGO=r2d2 | make test | make help
PYTHON ?= python3.13 python3.12 python3.11 python3
BIN := .venv/bin
ALGO ?= r2d2
ENV ?=
BASE ?=
ARGS ?=
MACHINE ?= here
EXTRA ?= dev
RESUME ?=

# Prints the lock file of the Python that runs it, and fails where that Python cannot build .venv.
LOCK := 'import ensurepip, ssl, sys, venv; print("requirements-%d.%d.lock" % sys.version_info[:2])'

.PHONY: .venv help train sweep plan resume eval report bench profile test test-slow lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.venv: .venv/built

.venv/built: pyproject.toml $(wildcard requirements-*.lock)
	@test ! -L .venv || { echo ".venv is a link, and building it would empty what it leads to"; exit 2; }
	@for python in $(PYTHON); do \
	  lock=$$($$python -c $(LOCK) 2>/dev/null) && test -f "$$lock" || continue; \
	  echo "building .venv with $$python and $$lock (once, a minute or two)"; \
	  $$python -m venv --clear .venv && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -r $$lock && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c $$lock -e '.[$(EXTRA)]' && \
	  echo $$python >.venv/built; \
	  exit; \
	done; \
	echo "rlsys needs Python 3.11, 3.12 or 3.13 with its modules venv, ensurepip and ssl, and found it in none" \
	  "of: $(PYTHON); install one (Debian, Ubuntu: apt install python3-venv), or name it: make $(or $(MAKECMDGOALS),.venv) PYTHON=<path>"; \
	exit 2

train: .venv  ## train: ALGO=<r2d2|impala|ppo> [ENV=<EnvPool id>] [ARGS="--field value ..."]
	@$(BIN)/python -m rlsys.train $(ALGO) $(if $(ENV),--env $(ENV)) $(ARGS)

sweep: .venv  ## many runs as one program: ALGO= ENV= ARGS="--learning-rate 1e-4 1e-3 --seeds 5" | RESUME=<dir>
	@$(BIN)/python -m rlsys.sweep $(if $(RESUME),resume "$(RESUME)",$(ALGO) $(if $(ENV),--env $(ENV))) $(ARGS)

plan: .venv  ## what `make train` with the same words would cost: [MACHINE=here|h100|8xh100|FILE]
	@$(BIN)/python -m rlsys.plan $(ALGO) --machine "$(MACHINE)" $(if $(ENV),--env $(ENV)) $(ARGS)

resume: .venv  ## continue a run: RUN=<dir>
	@$(BIN)/python -m rlsys.train resume "$(RUN)" $(ARGS)

eval: .venv  ## play a run's newest checkpoint: RUN=<dir> [ARGS="--episodes 100"]
	@$(BIN)/python -m rlsys.train eval "$(RUN)" $(ARGS)

report: .venv  ## a table and learning curves of runs and sweeps: RUNS="<dir> <dir> ..." [ARGS="--out DIR"]
	@$(BIN)/python -m rlsys.results.report $(RUNS) $(ARGS)

bench: .venv  ## measure everything, in half an hour: [BASE=<earlier.json>] [ARGS="--only learner replay"]
	@$(BIN)/python -m experiments.bench $(if $(BASE),--base "$(BASE)") $(ARGS)

profile: .venv  ## trace a short run: ALGO=<r2d2|impala|ppo> [ENV=<EnvPool id>] [ARGS="--field value ..."]
	@$(BIN)/python -m experiments.profile $(ALGO) $(if $(ENV),--env $(ENV)) $(ARGS)

test: .venv  ## run the tests
	@$(BIN)/python -m pytest -n 2 -m 'not slow' tests

test-slow: .venv  ## run every test, the long ones too
	@$(BIN)/python -m pytest -n 2 --dist loadgroup tests

lint: .venv  ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .venv  ## rewrite the code in the project's style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:  ## remove .venv and the tools' caches; runs and compiled programs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
