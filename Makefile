# slr-bench. `make bench` and `make test` do all their own set-up; `make help` lists the rest.
# ARGS reaches the command behind a target: make bench ARGS="--set data.dir=DIR"

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA := data/synthetic
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup data bench bench-gpu bench-compare bench-gate bench-records bench-trace bench-attention bench-parts bench-check bench-baseline test test-slow test-faults test-gpu check report clean browser bench-report bench-predict bench-predict-gpu bench-gpu-truth calibrate test-browser docs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything the project needs

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"make: slr-bench needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; name another with PYTHON=python3.12")'
	@if $(PYTHON) -c 'import torch, torchvision' 2>/dev/null; then \
		echo "set-up: making $(VENV) over this machine's own torch"; \
		$(PYTHON) -m venv --system-site-packages $(VENV) && $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,recogniser,memory-profiler]'; \
	elif command -v uv >/dev/null; then \
		echo "set-up: making $(VENV) with uv; torch is a large download (about 3 GB)"; \
		uv venv -q --allow-existing -p $(PYTHON) $(VENV) && uv pip install -q -p $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev,recogniser,memory-profiler]'; \
	else \
		echo "set-up: making $(VENV) with pip; torch is a large download (about 3 GB), allow some minutes"; \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --progress-bar on -c constraints.txt -e '.[dev,recogniser,memory-profiler]'; \
	fi
	@echo "set-up: compiling bytecode, so that every later start is quick"
	@$(BIN)/python -m compileall -q slr_bench models benchmarks || true
	@touch $@
	@echo "set-up: done"

data: $(READY) ## Render the synthetic signs that the benchmark trains on
	@$(BIN)/python -m models.data.synthetic --out $(DATA)

bench: data ## Measure baseline against optimized on this CPU (about 4 minutes on 2 cores), report in reports/latest
	$(BIN)/slr-bench run configs/ablation.yml --device cpu $(ARGS)

bench-gpu: data ## The reference shape on a GPU: precision x recomputation x batch
	$(BIN)/slr-bench run configs/ablation_gpu.yml $(ARGS)

bench-compare: data ## Prove the comparison on real runs: false alarms, detections (about 10 minutes, resumable)
	$(BIN)/python -m benchmarks.proofs.comparison_proof $(ARGS)

bench-gate: data ## Prove the gate on real commits: no-op, +0.5 % of bytes, +15 % of time (about 10 minutes, resumable)
	$(BIN)/python -m benchmarks.proofs.gate_proof $(ARGS)

bench-trace: data ## What tracing costs a step, beside torch's MemTracker (about 3 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.proofs.trace_cost $(ARGS)

bench-records: $(READY) ## Read, filter and tabulate 1,000 records
	$(BIN)/pytest -q -s benchmarks/test_report.py -k records $(ARGS)

bench-report: $(READY) ## Make the report of 200 cells with timelines
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -s benchmarks/test_report.py -k cells $(ARGS)

bench-attention: $(READY) ## Time and peak bytes of each attention from 64 to 4,096 frames (about 4 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m 'slow or not slow' benchmarks/test_layers.py -k attention $(ARGS)

bench-parts: $(READY) ## Time and peak bytes of each part: shift, attention, pyramid, decoding, cache, step, tracing (2 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q benchmarks $(ARGS)

bench-check: data ## Fail if bytes grew over reports/baseline (2 minutes); BASE=REV also pairs times with that revision
	$(BIN)/python -m benchmarks.proofs.byte_gate check
	$(if $(BASE),$(BIN)/slr-bench gate $(BASE) . --config configs/gate.yml --repeats 24 --rule step_time_s:15% $(ARGS))

bench-baseline: data ## Make reports/baseline anew: after a change of bytes that is meant, or of torch
	$(BIN)/python -m benchmarks.proofs.byte_gate renew

bench-predict: data ## What predictions are worth without a GPU: cost, planner, the CPU's peak (about 10 minutes)
	$(BIN)/python -m benchmarks.proofs.predict_proof $(ARGS)

bench-predict-gpu: data ## What predictions are worth on this GPU: 64 settings measured, half held out (resumable)
	$(BIN)/python -m benchmarks.proofs.predict_gpu $(ARGS)

bench-gpu-truth: $(READY) ## Hold allocator and predictions against recordings and figures of real GPUs (1 minute); ARGS="--data DIR"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.proofs.gpu_truth $(ARGS)

calibrate: data ## Measure this GPU for predict and plan: context, workspaces, golden traces (minutes)
	$(BIN)/slr-bench calibrate configs/calibrate.yml --traces tests/fixtures/traces $(ARGS)

test: $(READY) ## Run the fast tests, two processes of one thread each (7 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(READY) ## Run the tests that take minutes (over an hour in all)
	$(BIN)/pytest -m slow $(ARGS)

test-browser: browser ## Open the report in a headless Chromium: interaction, no script, phone, accessibility
	$(BIN)/pytest tests/browser -m browser $(ARGS)

browser: $(READY)
	@if ! command -v "$${CHROMIUM:-chromium}" chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "set-up: installing Chromium"; \
			apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core >/dev/null; \
		else \
			echo "make: the browser tests need Chromium: sudo apt-get install chromium, or CHROMIUM=/path/to/it"; exit 1; \
		fi; \
	fi
	@$(BIN)/python -c 'import playwright, axe_playwright_python' 2>/dev/null || { \
		echo "set-up: installing playwright (not its browsers) and axe-core"; \
		if command -v uv >/dev/null; then uv pip install -q -p $(BIN)/python -c constraints.txt -e '.[browser]'; \
		else $(BIN)/python -m pip install -q -c constraints.txt -e '.[browser]'; fi; }

docs: $(READY) ## Make the documentation as a site in site/: links are checked, search needs no network
	@$(BIN)/python -c 'import material' 2>/dev/null || { \
		echo "set-up: installing mkdocs-material"; \
		if command -v uv >/dev/null; then uv pip install -q -p $(BIN)/python -c constraints.txt -e '.[docs]'; \
		else $(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'; fi; }
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@echo "documentation: open site/index.html"

test-faults: $(READY) ## Kill runs at more than 200 instants and count what is lost (minutes)
	$(BIN)/pytest tests/faults -m 'faults or not faults' $(ARGS)

test-gpu: $(READY) ## Run the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

check: $(READY) ## Lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(READY) ## Make the report of reports/latest again
	$(BIN)/slr-bench report $(ARGS)

clean: ## Remove what was built, rendered (reports stay)
	rm -rf $(VENV) data build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
