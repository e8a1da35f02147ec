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
RUN ?=
RUNS ?=
FAMILY ?=
OUT ?= policy.zip

# This prints the lock file of the Python that runs it, and fails where that Python cannot build .venv.
# A lock file is what `.venv/bin/pip freeze --exclude-editable` prints with that Python.
LOCK := 'import ensurepip, ssl, sys, venv; print("requirements-%d.%d.lock" % sys.version_info[:2])'

COMMA := ,
SPACE := $(subst ,, )

# .venv/built holds the Python and the extras that .venv was built with.
# A make whose command line names others builds .venv again: make test PYTHON=python3.12
BUILT := $(shell cat .venv/built 2>/dev/null)
ifneq ($(origin PYTHON),file)
STALE := $(if $(filter $(BUILT),$(PYTHON)),,stale)
endif
ifneq ($(origin EXTRA),file)
STALE += $(filter-out $(BUILT),$(EXTRA))
endif

TARGETS := .venv help train sweep plan tasks metrics resume eval export report bench profile test test-slow lint format clean
.PHONY: $(TARGETS) stale

# A word that make would ignore is an error: make train algo=ppo would train R2D2.
KNOWN := PYTHON BIN ALGO ENV BASE ARGS MACHINE EXTRA RESUME RUN RUNS FAMILY OUT SHELL MAKEFLAGS
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
$(foreach name,$(filter-out $(KNOWN),$(GIVEN)),$(error there is no word $(name)=, \
  only $(foreach known,$(wordlist 3,12,$(KNOWN)),$(known)=); fields go into ARGS="--field value"))
$(foreach goal,$(filter-out $(TARGETS) .venv/built stale,$(MAKECMDGOALS)),$(error there is no target $(goal), \
  only $(TARGETS)))

# These can be seen before .venv is built, so they are said before.
HELP := $(findstring --help,$(ARGS))
$(foreach extra,$(filter-out dev cuda tpu,$(subst $(COMMA),$(SPACE),$(EXTRA))),$(error there is no EXTRA=$(extra), \
  only dev, cuda and tpu))
ifneq ($(filter resume eval export,$(MAKECMDGOALS)),)
$(if $(strip $(RUN)$(HELP)),,$(error which run? make $(firstword $(MAKECMDGOALS)) RUN=runs/<name>, or RUN=latest))
endif
ifneq ($(filter train sweep plan profile,$(MAKECMDGOALS)),)
MODULE := $(subst .,/,$(ALGO))
ALGOS := $(filter-out __init__ presets %_minibatches,$(patsubst rlsys/algorithms/%.py,%,$(wildcard rlsys/algorithms/*.py)))
FOUND := $(filter $(ALGO),$(ALGOS))$(wildcard .venv/built $(MODULE).py $(MODULE)/__init__.py)
$(if $(strip $(FOUND)),,$(error there is no algorithm ALGO=$(ALGO), only $(ALGOS), or a module of your own))
endif

help:  ## List these targets.
	@grep -hE '^[.a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.venv: .venv/built  ## Build .venv with the newest Python that works. [PYTHON=<path>] [EXTRA=<dev|cuda|tpu>, joined by commas]

stale:

.venv/built: pyproject.toml $(wildcard requirements-*.lock) $(if $(strip $(STALE)),stale)
	@test ! -L .venv || { echo ".venv is a link, and building it would empty what it leads to"; exit 2; }
	@for python in $(PYTHON); do \
	  lock=$$($$python -c $(LOCK) 2>/dev/null) && test -f "$$lock" || continue; \
	  echo "building .venv with $$python and $$lock (once, a minute or two)"; \
	  $$python -m venv --clear .venv && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -r $$lock && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c $$lock -e '.[$(EXTRA)]' && \
	  echo "$$python $(EXTRA)" >.venv/built; \
	  exit; \
	done; \
	echo "no Python here can build .venv (tried: $(PYTHON)): install Python 3.11, 3.12 or 3.13 with its modules venv," \
	  "ensurepip and ssl (on Debian and Ubuntu the package python3-venv), or name one: make $(MAKECMDGOALS) PYTHON=<path>" >&2; \
	exit 2

train: .venv  ## Train an agent. ALGO=<r2d2|apex|impala|ppo|module of your own> [ENV=<task>] [ARGS="--field value ..."]
	@$(BIN)/python -m rlsys.train $(ALGO) $(if $(ENV),--env $(ENV)) $(ARGS)

sweep: .venv  ## Train for every combination of values and seeds in one program, or resume such a sweep. ALGO= ENV= ARGS="--learning-rate 1e-4 1e-3 --seeds 5" | RESUME=<dir>
	@$(BIN)/python -m rlsys.sweep $(if $(RESUME),resume "$(RESUME)",$(ALGO) $(if $(ENV),--env $(ENV))) $(ARGS)

plan: .venv  ## Predict the speed and memory of `make train` with the same words. [MACHINE=here|h100|8xh100|<file>]
	@$(BIN)/python -m rlsys.plan $(ALGO) --machine "$(MACHINE)" $(if $(ENV),--env $(ENV)) $(ARGS)

tasks: .venv  ## List the families of EnvPool's tasks, or the tasks of one. [FAMILY=atari]
	@$(BIN)/python -m rlsys tasks $(FAMILY)

metrics: .venv  ## Explain every metric of a run's log.
	@$(BIN)/python -m rlsys metrics

resume: .venv  ## Continue a run from its newest checkpoint. RUN=<dir|latest|pattern> [ARGS="--field value ..."]
	@$(BIN)/python -m rlsys.train resume "$(RUN)" $(ARGS)

eval: .venv  ## Play episodes with a run's newest checkpoint and print their mean return. RUN=<dir> [ARGS="--episodes 100"]
	@$(BIN)/python -m rlsys.train eval "$(RUN)" $(ARGS)

export: .venv  ## Write a run's policy to one file, which rlsys.load_policy() reads. RUN=<dir> [OUT=policy.zip]
	@$(BIN)/python -m rlsys.train export "$(RUN)" --out "$(OUT)" $(ARGS)

report: .venv  ## Draw a table and learning curves of runs and sweeps. RUNS="<dir> <dir> ..." [ARGS="--out <dir>"]
	@$(BIN)/python -m rlsys.results.report $(RUNS) $(ARGS)

bench: .venv  ## Measure the speed of every part, which takes half an hour. [BASE=<earlier.json>] [ARGS="--only learner replay"]
	@$(BIN)/python -m experiments.bench $(if $(BASE),--base "$(BASE)") $(ARGS)

profile: .venv  ## Train briefly and say where the time goes. ALGO= [ENV=<task>] [ARGS="--field value ..."]
	@$(BIN)/python -m experiments.profile $(ALGO) $(if $(ENV),--env $(ENV)) $(ARGS)

test: .venv  ## Run the tests, except those that take minutes; two cores need less than ten minutes.
	@echo "running the tests, which takes less than ten minutes on two cores"
	@$(BIN)/python -m pytest -n 2 -m 'not slow' tests

test-slow: .venv  ## Run every test, the long ones too.
	@$(BIN)/python -m pytest -n 2 --dist loadgroup tests

lint: .venv  ## Check the style and the types of the code.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .venv  ## Rewrite the code in the project's style.
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:  ## Remove .venv and the caches of ruff, mypy and pytest, and keep runs and compiled programs.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
