# Every target sets up what it needs: `make demo` and `make test` work in a fresh clone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup interop demo train test docs figures notebooks nightly fuzz faults lock audit licences lint bench soak clean

help:
	@echo "make demo    synthesise scenes, train the report's system on them, evaluate (minutes)"
	@echo "make test    lint and tests, in minutes; what takes longer is left to make nightly"
	@echo "make docs    the pages of docs/ as a site, in site/"
	@echo "make figures count anew what the pages print of networks, and render docs/measured/ into them"
	@echo "make notebooks  execute those of examples/notebooks; with their results in runs/notebooks"
	@echo "make train   CONFIG=splits/5pct.py: train and evaluate on a data set already built"
	@echo "make bench   time asc_jax, PyTorch, ONNX Runtime, LiteRT: an hour; BENCH_FLAGS=--quick, minutes"
	@echo "make nightly every test, its programs compiled as shipped; fuzzing, faults; then the audit"
	@echo "make fuzz    a million corrupted inputs to all readers; FUZZ_N, FUZZ_SEED"
	@echo "make faults  210 faults to runs and data sets: same bits or a plain error; FAULTS_N, FAULTS_SEED"
	@echo "make lock    write requirements.lock anew: every version and hash; make audit, make licences"
	@echo "make setup   only make the virtual environment in $(VENV)"
	@echo "make interop add PyTorch, ONNX and LiteRT to it: optional, and then tested too"
	@echo "make soak    SOAK_MINUTES=60: train, kill, resume; same bits, no more memory than at first"
	@echo "make clean   remove the demo's data and run, and the site"

$(VENV)/.installed: pyproject.toml requirements-core.txt requirements-data.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and \
	  f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 …")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: no venv module; on Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(BIN)/pip install -q --disable-pip-version-check -e ".[data,dev]"
	@touch $@

setup: $(VENV)/.installed

$(VENV)/.interop: $(VENV)/.installed requirements-interop.txt
	$(BIN)/pip install -q --disable-pip-version-check -e ".[interop]"
	@touch $@

interop: $(VENV)/.interop

DEMO_DATA ?= data/demo
DEMO_RUN ?= runs/demo
DEMO_SEGMENTS ?=
DEMO_FLAGS ?=
demo: setup
	$(BIN)/asc-jax synthesize --out_dir $(DEMO_DATA)/scenes $(DEMO_SEGMENTS)
	$(BIN)/asc-jax prepare-data --tau_dir $(DEMO_DATA)/scenes --data_dir $(DEMO_DATA) --splits 100,test --overwrite
	$(BIN)/asc-jax train --config demo.py --config.data.dir=$(DEMO_DATA) --workdir $(DEMO_RUN) $(DEMO_FLAGS)
	$(BIN)/asc-jax eval --workdir $(DEMO_RUN)

CONFIG ?= splits/5pct.py
WORKDIR ?= runs/$(CONFIG:.py=)
train: setup
	$(BIN)/asc-jax train --config $(CONFIG) --workdir $(WORKDIR)
	$(BIN)/asc-jax eval --workdir $(WORKDIR)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Files in the order of their names: the one whose few tests take longest would else come last.
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

$(VENV)/.docs: $(VENV)/.installed requirements-docs.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-docs.txt
	@touch $@

# Strictly: a link to a page or a heading that is not there is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# FIGURES_FLAGS=--render only renders what lies in docs/measured/.
figures: setup
	$(BIN)/python -m docs.figures $(FIGURES_FLAGS)

$(VENV)/.notebooks: $(VENV)/.installed requirements-notebooks.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-notebooks.txt
	@touch $@

notebooks: $(VENV)/.notebooks
	$(BIN)/python examples/notebooks/execute.py runs/notebooks

# What takes long, and every test with programs compiled as shipped; every day has inputs of its own, and resumes where it was interrupted.
nightly: setup
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -q -m "nightly or not nightly" \
	  -n 2 --dist loadfile --no-loadscope-reorder
	$(MAKE) fuzz
	$(MAKE) faults
	$(MAKE) audit

FUZZ_N ?= 1000000
FUZZ_SEED ?= $(shell date +%Y%m%d)
FUZZ_STATE ?= runs/fuzz/$(FUZZ_SEED)
fuzz: interop
	$(BIN)/python -m tests.fuzz --n $(FUZZ_N) --seed $(FUZZ_SEED) --state $(FUZZ_STATE)

FAULTS_N ?= 210
FAULTS_SEED ?= $(shell date +%Y%m%d)
FAULTS_STATE ?= runs/faults/$(FAULTS_SEED)
faults: setup
	$(BIN)/python -m tests.faults --n $(FAULTS_N) --seed $(FAULTS_SEED) --state $(FAULTS_STATE)

$(VENV)/.supply: $(VENV)/.installed requirements-supply.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-supply.txt
	@touch $@

# For every system and for Python 3.11 to 3.13; install with pip install --require-hashes -r.
lock: $(VENV)/.supply
	$(BIN)/uv pip compile requirements.txt --output-file requirements.lock --quiet --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock"

# pip-audit passes over a package that it cannot look up, unless it is told not to.
audit: $(VENV)/.supply
	@said=$$($(BIN)/pip-audit -r requirements.lock --disable-pip --strict --progress-spinner off 2>&1); \
	  status=$$?; echo "$$said"; \
	  if echo "$$said" | grep -qE "could not be audited|onnection"; then \
	    echo "error: NOT AUDITED: the published advisories cannot be reached from here"; exit 3; fi; \
	  exit $$status

# A package that gives its whole licence for a name takes many rows; the first has the name.
licences: $(VENV)/.supply
	@{ sed '/^|/d' docs/licences.md; $(BIN)/pip-licenses --from=mixed --format=markdown \
	  --order=license --packages $$(sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' requirements.lock \
	  | sort -u) | grep -v '^|  *|' | sed 's/  *|/ |/g'; } > docs/licences.md.part
	@mv docs/licences.md.part docs/licences.md

bench: setup
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

SOAK_MINUTES ?= 60
soak: setup
	$(BIN)/python tests/soak.py --minutes=$(SOAK_MINUTES)

clean:
	rm -rf data/demo runs/demo site
