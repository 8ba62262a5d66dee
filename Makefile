# Every target sets up what it needs: `make demo` and `make test` work in a fresh clone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup interop demo train test lint bench clean

help:
	@echo "make demo    synthesise scenes, train the report's system on them, evaluate (minutes)"
	@echo "make test    lint and run every test"
	@echo "make train   CONFIG=splits/5pct.py: train and evaluate on a data set already built"
	@echo "make bench   time ours beside PyTorch, ONNX Runtime, LiteRT: an hour; BENCH_FLAGS=--quick, minutes"
	@echo "make setup   only make the virtual environment in $(VENV)"
	@echo "make interop add PyTorch, ONNX and LiteRT to it: optional, and then tested too"
	@echo "make clean   remove the demo's data and run"

$(VENV)/.installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and \
	  f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 …")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: no venv module; on Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup: $(VENV)/.installed

$(VENV)/.interop: $(VENV)/.installed requirements-interop.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-interop.txt
	@touch $@

interop: $(VENV)/.interop

DEMO_DATA ?= data/demo
DEMO_RUN ?= runs/demo
DEMO_SEGMENTS ?=
DEMO_FLAGS ?=
demo: setup
	$(BIN)/python -m asc_jax.cli.synthesize --out_dir $(DEMO_DATA)/scenes $(DEMO_SEGMENTS)
	$(BIN)/python -m asc_jax.cli.prepare_data --tau_dir $(DEMO_DATA)/scenes --data_dir $(DEMO_DATA) --splits 100,test --overwrite
	$(BIN)/python train.py --config demo.py --config.data.dir=$(DEMO_DATA) --workdir $(DEMO_RUN) $(DEMO_FLAGS)
	$(BIN)/python eval.py --workdir $(DEMO_RUN)

CONFIG ?= splits/5pct.py
WORKDIR ?= runs/$(CONFIG:.py=)
train: setup
	$(BIN)/python train.py --config $(CONFIG) --workdir $(WORKDIR)
	$(BIN)/python eval.py --workdir $(WORKDIR)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: setup
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

clean:
	rm -rf data/demo runs/demo
