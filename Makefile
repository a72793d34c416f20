# Everything runs in .venv, which is installed from the Python package index only.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# The tests of a file share slow fixtures, so they stay in one process. The files keep their order, which mixes long and
# short ones.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: help venv test coverage lint audit format docs eval results picture clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s%s\n", $$1, $$2}' Makefile

venv: $(READY) ## install the package and its tools into .venv

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "make venv: $(PYTHON) must be Python 3.10 or newer; choose one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "make venv: $(PYTHON) lacks the venv module (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "make venv: installing into $(VENV) from the package index; this takes about two minutes, once"
	@$(RUN) -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: $(READY) ## run the tests in parallel on all cores
	$(RUN) -m pytest $(PARALLEL)

coverage: $(READY) ## run the tests, and list the lines and branches that no test runs
	$(RUN) -m pytest $(PARALLEL) --cov --cov-report=term --cov-report=html:output/coverage

lint: $(READY) ## check style, types and spelling
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -m codespell_lib

audit: $(READY) ## find risky code, and advisories on installed packages (needs pypi.org)
	$(RUN) -m bandit --quiet --recursive --configfile pyproject.toml cliptrase_d2 datasets docs experiments tools train_net.py
	$(RUN) tools/audit.py

format: $(READY) ## format the code
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

docs: $(READY) ## build the guides into docs/_build/html; warnings are errors
	@$(RUN) -c 'import sphinx' || { echo "make docs: Sphinx needs Python 3.11 or newer" >&2; exit 1; }
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(RUN) -m pytest -q tests/docs/test_built_pages.py

eval: $(READY) ## compare CLIPtrase with other methods on the emoji scenes
	$(RUN) train_net.py --eval-only --config-file configs/emoji_scenes.yaml

results: $(READY) ## run the evaluations of RESULTS.md and write it
	$(RUN) tools/make_results_table.py

picture: $(READY) ## draw the pictures of the README and the guides
	$(RUN) tools/make_picture.py --output docs/pictures/emoji_scene.jpg -- INPUT.MIN_SIZE_TEST 224
	$(RUN) docs/make_pictures.py

clean: ## remove .venv and all caches; keep the results in output/
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
