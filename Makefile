# make help lists the targets. Everything runs in .venv, which is made from requirements.lock and from nothing else.

PROFILE  ?= quick
NOTEBOOK ?=
DATASET  ?=
MINUTES  ?=
PYTHON   ?= python3

# glibc returns the memory of every large activation to the system and asks for it again in the next step. Keeping it
# instead makes a training step on the CPU about 10 % faster (measured); it changes no number.
export MALLOC_MMAP_THRESHOLD_ = 8589934592
export MALLOC_TRIM_THRESHOLD_ = 17179869184
export MALLOC_TOP_PAD_        = 268435456

# The stamp is named after the lock's content and written last: the set-up is redone when the lock changes, or when it
# was interrupted, in which case .venv is made anew (.venv/unfinished says so).
READY := .venv/ready-$(firstword $(shell cksum < requirements.lock))

.PHONY: help reports train keep download test test-all lint bench soak lab lock clean setup
.DEFAULT_GOAL := help

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## */\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "make %-9s %s\n", $$1, $$2}'
	@echo "Options: PROFILE=quick|photos|full|paper  NOTEBOOK=recall_at_k (default: all)  DATASET=cub200  MINUTES=25  PYTHON=python3 (3.11 or newer)"
	@echo "STORED=1 takes committed runs first, STORED=0 looks at none and trains (docs/runs.md)"

reports: $(READY) ## run the notebooks and write their pages to reports/PROFILE/, each as soon as it is there
	.venv/bin/python -m mdr_core reports --profile $(PROFILE) $(addprefix --notebook ,$(NOTEBOOK))

train: $(READY) ## run the notebooks with train=True: train what is missing into runs/, for MINUTES at most; the same command goes on
	.venv/bin/python -m mdr_core train --profile $(PROFILE) $(addprefix --minutes ,$(MINUTES)) $(addprefix --notebook ,$(NOTEBOOK))

keep: $(READY) ## add the runs in runs/ on the datasets of PROFILE to the committed ones, reports/PROFILE/runs.csv
	.venv/bin/python -m mdr_core keep --profile $(PROFILE)

download: $(READY) ## fetch DATASET (cub200 or sop) into data/
	.venv/bin/python -m mdr_core download $(DATASET)

test: $(READY) ## run the tests
	.venv/bin/python -m pytest

test-all: $(READY) ## run the tests with their long forms: more kills, examples and processes
	.venv/bin/python -m pytest -m ""

lint: $(READY) ## check format, style, types and which part of mdr_core imports which
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: $(READY) ## measure side by side, print ratios, keep them in benchmarks/results/
	.venv/bin/python -m benchmarks

soak: $(READY) ## kill a small grid 50 times at random moments and see that nothing is lost
	.venv/bin/python -m pytest -n 0 -m long -k killed_again tests/test_runs.py

lab: $(READY) ## open JupyterLab
	.venv/bin/python -m jupyterlab

setup: $(READY) ## only make the environment

define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "This needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
endef

$(READY):
	@$(CHECK_PYTHON)
	@test ! -e .venv/unfinished || rm -rf .venv
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	@rm -f .venv/ready-*; touch .venv/unfinished
	.venv/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e .
	@rm .venv/unfinished; touch $@

lock: ## pin the newest versions of what pyproject.toml names
	@$(CHECK_PYTHON)
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --upgrade setuptools -e '.[study,test]'
	{ echo "# Made by make lock from pyproject.toml."; .venv-lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed -E \
	  '/^(nvidia-|cuda-|triton=)/s/$$/ ; platform_system == "Linux" and platform_machine == "x86_64"/'; } > .venv-lock/lock
	mv .venv-lock/lock requirements.lock && rm -rf .venv-lock

clean: ## remove the environment and the tests' caches; decoded images, stored runs and reports stay
	rm -rf .venv .venv-lock build *.egg-info .pytest_cache .hypothesis
	find mdr_core tests notebooks -name __pycache__ -o -name .ipynb_checkpoints 2>/dev/null | xargs rm -rf
