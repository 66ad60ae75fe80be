# make reports [PROFILE=quick|photos|paper] [NOTEBOOK=recall_at_k]; make test; make lab; make help
PROFILE ?= quick
PYTHON ?= python3
READY = .venv/.ready-$(shell cksum < requirements.lock | cut -d' ' -f1)

.PHONY: help setup reports test lab lock
.DEFAULT_GOAL := help

help:
	@echo "make reports   run the notebooks and write reports/PROFILE/ (PROFILE=quick|photos|paper, NOTEBOOK=name)"
	@echo "make test      run the tests"
	@echo "make lab       open JupyterLab"
	@echo "make lock      pin the newest versions that requirements.in allows"
	@echo "make help      this list;   each target sets up .venv first, anew only when requirements.lock changed"

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("the study needs Python 3.11 or newer: set PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install -q --disable-pip-version-check "setuptools>=68"
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f .venv/.ready-*
	@touch $@

reports: $(READY)
	.venv/bin/python -m mdr_core.reports --profile $(PROFILE) $(if $(NOTEBOOK),--notebook $(NOTEBOOK))

test: $(READY)
	.venv/bin/python -m pytest

lab: $(READY)
	.venv/bin/jupyter lab notebooks

lock:
	rm -rf .lock && $(PYTHON) -m venv .lock && .lock/bin/python -m pip install -q -r requirements.in
	.lock/bin/python -m pip freeze | sed -E 's/^((nvidia|cuda|triton)[^ ]*)$$/\1 ; platform_system == "Linux"/' > requirements.lock
	rm -rf .lock
