# Everything runs in .venv, which is filled from the Python package index and from nowhere else.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# A file's tests stay in one process, for they share what is slow to make; files go in their own order, long ones
# among short ones.
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

test: $(READY) ## run the tests, side by side on all cores
	$(RUN) -m pytest $(PARALLEL)

coverage: $(READY) ## run the tests, and list the lines and branches of the package that none runs
	$(RUN) -m pytest $(PARALLEL) --cov --cov-report=term --cov-report=html:output/coverage

lint: $(READY) ## check style, types and spelling
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -m codespell_lib

audit: $(READY) ## look for risky code, and for advisories on what is installed (needs pypi.org)
	$(RUN) -m bandit --quiet --recursive --configfile pyproject.toml cliptrase_d2 datasets docs tools train_net.py
	$(RUN) tools/audit.py

format: $(READY) ## rewrite the code in the project's style
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

docs: $(READY) ## build the guides into docs/_build/html; a warning is an error
	@$(RUN) -c 'import sphinx' || { echo "make docs: the guides need Python 3.11 or newer, as Sphinx does" >&2; exit 1; }
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(RUN) -m pytest -q tests/docs/test_built_pages.py

eval: $(READY) ## compare CLIPtrase and plain CLIP on the emoji scenes
	$(RUN) train_net.py --eval-only --config-file configs/emoji_scenes.yaml

results: $(READY) ## evaluate what RESULTS.md lists, and write it
	$(RUN) tools/make_results_table.py

picture: $(READY) ## draw the pictures of the README and the guides
	$(RUN) tools/make_picture.py --output docs/pictures/emoji_scene.jpg
	$(RUN) docs/make_pictures.py

clean: ## remove .venv and all caches; results in output/ stay
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
