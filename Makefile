# make train ALGO=r2d2 | make test | make help
PYTHON ?= python3.13 python3.12 python3.11 python3
BIN := .venv/bin
ALGO ?= r2d2
ENV ?=
BASE ?=
ARGS ?=
MACHINE ?= here
EXTRA ?=
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

# .venv/built holds the Python and the extras that .venv was built with, .venv/wanted those of a build that was cut
# off. They are kept from one make to the next. EXTRA=cuda adds to them, and PYTHON=python3.12 builds .venv again.
BUILT := $(subst $(COMMA),$(SPACE),$(shell cat .venv/built .venv/wanted 2>/dev/null | tail -n 1))
GIVEN_EXTRAS := $(subst $(COMMA),$(SPACE),$(EXTRA)) $(if $(findstring smax/,$(ENV) $(ARGS)),teams)
EXTRAS := dev $(sort $(filter-out dev,$(wordlist 2,$(words $(BUILT)),$(BUILT)) $(GIVEN_EXTRAS)))
ifneq ($(origin PYTHON),file)
OTHER_PYTHON := $(if $(filter $(firstword $(BUILT)),$(PYTHON)),,stale)
endif
PYTHONS = $(if $(OTHER_PYTHON),,$(firstword $(BUILT))) $(PYTHON)
STALE := $(strip $(OTHER_PYTHON) $(filter-out $(BUILT),$(EXTRAS)))

TARGETS := install .venv help train sweep plan randomise transfer tasks metrics resume eval export match ratings play exploit report bench profile test test-slow lint format clean
.PHONY: $(TARGETS) stale

$(foreach goal,$(filter-out $(TARGETS) .venv/built stale,$(MAKECMDGOALS)),$(error there is no target $(goal), \
  only $(TARGETS)))

# The words that each target takes, beside PYTHON and EXTRA, which all take. Another is an error, because make would
# ignore it: make train RUN=runs/x would begin a new run.
TAKES.train := ALGO ENV ARGS
TAKES.profile := ALGO ENV ARGS
TAKES.plan := ALGO ENV ARGS MACHINE
TAKES.sweep := $(if $(strip $(RESUME)),,ALGO ENV) ARGS RESUME
TAKES.randomise := ENV ARGS
TAKES.tasks := FAMILY
TAKES.export := RUN ARGS OUT
TAKES.report := RUNS ARGS
TAKES.bench := BASE ARGS
$(foreach target,resume eval transfer match ratings play exploit,$(eval TAKES.$(target) := RUN ARGS))
GOALS := $(or $(MAKECMDGOALS),help)
TAKEN := $(foreach goal,$(GOALS),$(TAKES.$(goal))) PYTHON EXTRA
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
$(foreach name,$(filter-out $(TAKEN) BIN SHELL MAKEFLAGS,$(GIVEN)),$(error there is no word $(name)= for make \
  $(GOALS), only $(TAKEN:%=%=)$(if $(filter ARGS,$(TAKEN)),; fields go into ARGS="--field value")))

# These can be seen before .venv is built, so they are said before.
HELP := $(findstring --help,$(ARGS))
$(foreach extra,$(filter-out dev cuda tpu teams,$(GIVEN_EXTRAS)),$(error there is no EXTRA=$(extra), \
  only dev, cuda, tpu and teams))
ifneq ($(filter resume eval export ratings play exploit,$(MAKECMDGOALS)),)
$(if $(strip $(RUN)$(HELP)),,$(error which run? make $(firstword $(MAKECMDGOALS)) RUN=runs/<name>, or RUN=latest))
$(if $(HELP),,$(if $(wildcard $(if $(filter latest,$(RUN)),runs/*/config.json,$(subst $(SPACE),\ ,$(RUN)))),, \
  $(error there is no run $(RUN))))
endif
ifneq ($(filter match,$(MAKECMDGOALS)),)
$(if $(filter 2,$(words $(RUN)))$(HELP),,$(error which two runs? make match RUN="runs/<name> runs/<name>", or one and \
  random, blocker or perfect))
endif
ifneq ($(filter transfer,$(MAKECMDGOALS)),)
$(if $(strip $(RUN)$(HELP)),,$(error which runs? make transfer RUN="runs/<name> runs/<name>"))
endif
ifneq ($(filter report,$(MAKECMDGOALS)),)
$(if $(strip $(RUNS)$(HELP)),,$(error which runs? make report RUNS="runs/<name> runs/<name>"))
endif
ifneq ($(and $(filter sweep,$(MAKECMDGOALS)),$(strip $(RESUME))),)
$(if $(wildcard $(if $(filter latest,$(RESUME)),runs/*/config.json,$(subst $(SPACE),\ ,$(RESUME)))),, \
  $(error there is no sweep $(RESUME)))
endif
ifneq ($(filter train sweep plan profile,$(MAKECMDGOALS)),)
MODULE := $(subst .,/,$(ALGO))
ALGOS := $(filter-out __init__ presets %_minibatches,$(patsubst rlsys/algorithms/%.py,%,$(wildcard rlsys/algorithms/*.py)))
FOUND := $(filter $(ALGO),$(ALGOS))$(wildcard .venv/built $(MODULE).py $(MODULE)/__init__.py)
$(if $(strip $(FOUND)),,$(error there is no algorithm ALGO=$(ALGO), only $(ALGOS), or a module of your own))
endif

help:  ## List these targets.
	@grep -hE '^[.a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: .venv/built  ## Build .venv, as any target does that needs it. [PYTHON=<path>] [EXTRA=<cuda|tpu|teams>, which is remembered]
	@read -r python extras <.venv/built && echo ".venv has $$python with the extras $$extras"

.venv: install

stale:

.venv/built: pyproject.toml $(wildcard requirements-*.lock) $(if $(STALE),stale)
	@test ! -L .venv || { echo ".venv is a link, and building it would empty what it leads to"; exit 2; }
	@for python in $(PYTHONS); do \
	  lock=$$($$python -c $(LOCK) 2>/dev/null) && test -f "$$lock" || continue; \
	  extras="$(subst $(SPACE),$(COMMA),$(strip $(EXTRAS)))"; \
	  if test "$(OTHER_PYTHON)$?" = stale; then \
	    echo "adding $$extras to .venv"; \
	  else \
	    echo "building .venv with $$python and $$lock (once, a minute or two)"; \
	    $$python -m venv --clear .venv && echo "$$python $(EXTRAS)" >.venv/wanted && \
	    $(BIN)/pip install --quiet --disable-pip-version-check -r $$lock; \
	  fi && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c $$lock -e ".[$$extras]" && \
	  echo "$$python $(EXTRAS)" >.venv/built && rm -f .venv/wanted; \
	  exit; \
	done; \
	echo "no Python here can build .venv (tried: $(strip $(PYTHONS))): install Python 3.11, 3.12 or 3.13 with its modules venv," \
	  "ensurepip and ssl (on Debian and Ubuntu the package python3-venv), or name one: make $(MAKECMDGOALS) PYTHON=<path>" >&2; \
	exit 2

train: .venv/built  ## Train an agent. ALGO=<r2d2|apex|impala|ppo|module of your own> [ENV=<task>] [ARGS="--field value ..."]
	@$(BIN)/python -m rlsys.train $(ALGO) $(if $(ENV),--env $(ENV)) $(ARGS)

sweep: .venv/built  ## Train for every combination of values and seeds in one program, or resume such a sweep. ALGO= ENV= ARGS="--learning-rate 1e-4 1e-3 --seeds 5" | RESUME=<dir>
	@$(BIN)/python -m rlsys.sweep $(if $(RESUME),resume "$(RESUME)",$(ALGO) $(if $(ENV),--env $(ENV))) $(ARGS)

plan: .venv/built  ## Predict the speed and memory of `make train` with the same words. [MACHINE=here|h100|8xh100|<file>]
	@$(BIN)/python -m rlsys.plan $(ALGO) --machine "$(MACHINE)" $(if $(ENV),--env $(ENV)) $(ARGS)

randomise: .venv/built  ## Show what would be drawn of a task's physics. ENV=<task> [ARGS="--randomise.preset dactyl"]
	@$(BIN)/python -m rlsys.train randomise $(ENV) $(ARGS)

transfer: .venv/built  ## Play runs in domains that they were not trained in. RUN="<dir> <dir>" [ARGS="--episodes 100"]
	@$(BIN)/python -m rlsys.train transfer $(foreach run,$(RUN),"$(run)") $(ARGS)

tasks: .venv/built  ## List the families of EnvPool's tasks, or the tasks of one. [FAMILY=atari]
	@$(BIN)/python -m rlsys tasks $(FAMILY)

metrics: .venv/built  ## Explain every metric of a run's log.
	@$(BIN)/python -m rlsys metrics

resume: .venv/built  ## Continue a run from its newest checkpoint. RUN=<dir|latest|pattern> [ARGS="--field value ..."]
	@$(BIN)/python -m rlsys.train resume "$(RUN)" $(ARGS)

eval: .venv/built  ## Play episodes with a run's newest checkpoint and print their mean return. RUN=<dir> [ARGS="--episodes 100"]
	@$(BIN)/python -m rlsys.train eval "$(RUN)" $(ARGS)

export: .venv/built  ## Write a run's policy to one file, which rlsys.load_policy() reads. RUN=<dir> [OUT=policy.zip]
	@$(BIN)/python -m rlsys.train export "$(RUN)" --out "$(OUT)" $(ARGS)

match: .venv/built  ## Play two runs of a game against each other. RUN="<dir> <dir|random|blocker|perfect>" [ARGS="--episodes 1000 --mode greedy"]
	@$(BIN)/python -m rlsys.train match $(foreach run,$(RUN),"$(run)") $(ARGS)

ratings: .venv/built  ## Rate a run's past selves and its policy by games against each other. RUN=<dir> [ARGS="--games 40"]
	@$(BIN)/python -m rlsys.train ratings "$(RUN)" $(ARGS)

play: .venv/built  ## Play TicTacToe, ConnectFour, Othello or Hex against a run's policy. RUN=<dir>
	@$(BIN)/python -m rlsys.train play "$(RUN)" $(ARGS)

exploit: .venv/built  ## Train a best response to a run's policy in a game of two, and say what it wins. RUN=<dir> [ARGS="--env-steps 1e6"]
	@$(BIN)/python -m rlsys.train exploit "$(RUN)" $(ARGS)

report: .venv/built  ## Draw a table and learning curves of runs and sweeps. RUNS="<dir> <dir> ..." [ARGS="--out <dir>"]
	@$(BIN)/python -m rlsys.results.report $(RUNS) $(ARGS)

bench: .venv/built  ## Measure the speed of every part, which takes half an hour. [BASE=<earlier.json>] [ARGS="--only learner replay"]
	@$(BIN)/python -m experiments.bench $(if $(BASE),--base "$(BASE)") $(ARGS)

profile: .venv/built  ## Train briefly and say where the time goes. ALGO= [ENV=<task>] [ARGS="--field value ..."]
	@$(BIN)/python -m experiments.profile $(ALGO) $(if $(ENV),--env $(ENV)) $(ARGS)

test: .venv/built  ## Run the tests, except those that take minutes; two cores need less than ten minutes.
	@echo "running the tests, which takes less than ten minutes on two cores"
	@$(BIN)/python -m pytest -n 2 -m 'not slow' tests

test-slow: .venv/built  ## Run every test, the long ones too, on programs compiled as for training.
	@JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n 2 --dist loadgroup tests

lint: .venv/built  ## Check the style and the types of the code.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .venv/built  ## Rewrite the code in the project's style.
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:  ## Remove .venv, its extras and the caches of ruff, mypy and pytest; keep runs and compiled programs.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
