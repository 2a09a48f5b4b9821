# make demo, demo-video, demo-objects, demo-control: see it work.  make test: all that CI runs.  The rest is for developers (see CONTRIBUTING.md).
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export OMP_NUM_THREADS ?= 2
export MPLBACKEND ?= agg
# ocatari is installed without what it asks for (numpy<2, opencv, pygame, ...): vislearn reads its labels without that
UV = env UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $${PIP_INDEX_URL:+UV_DEFAULT_INDEX=$$PIP_INDEX_URL} $(BIN)/uv pip install -q -p $(BIN)/python

.PHONY: setup demo demo-video demo-objects demo-control test slow sync site lab check bench data clean

setup: .venv/.installed   ## .venv with vislearn and everything its tests need

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vislearn needs Python 3.11 or newer; say make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing vislearn into .venv"
	@$(BIN)/pip install -q uv==0.13.8 && $(UV) --compile-bytecode -c constraints.txt -e '.[dev]' || $(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@$(UV) --no-deps ocatari==2.2.1 || $(BIN)/pip install -q --no-deps ocatari==2.2.1 || echo "ocatari could not be installed: Atari games have no labels"
	@bash tools/system_packages.sh   # what simulators need to draw without a screen
	@touch $@

demo: setup               ## bags, patches, representation, cost, costmaps: runs/demo/report.html
	@$(BIN)/vislearn demo

demo-objects: setup       ## sprites, what moves, objects without labels, scores: runs/demo-objects/report.html
	@$(BIN)/vislearn demo objects

demo-video: setup         ## moving digits, what comes next, scores: runs/demo-video/report.html
	@$(BIN)/vislearn demo video

demo-control: setup       ## demonstrations, embeddings, a policy, its success: runs/demo-control/report.html
	@$(BIN)/vislearn demo control

test: setup               ## everything CI runs
	@$(BIN)/python tools/check.py

slow: setup               ## the long tests and the notebook cells marked slow
	@$(BIN)/nbdev_test --n_workers 2 --flags slow
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests

sync: setup               ## notebooks to modules, notebooks cleaned, README from nbs/index.ipynb
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(BIN)/python tools/make_site.py --readme

site: setup               ## all pages to _site/, every link checked
	@$(BIN)/python tools/make_site.py --check

lab: setup                ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=nbs

check: sync test          ## before a commit

bench: setup              ## benchmarks/terrain.json, runs.json, video.json, objects.json and control.json
	@$(BIN)/python benchmarks/bench_terrain.py --out benchmarks/terrain.json
	@$(BIN)/python benchmarks/bench_runs.py --out benchmarks/runs.json
	@$(BIN)/python benchmarks/bench_video.py --out benchmarks/video.json
	@$(BIN)/python benchmarks/bench_objects.py --out benchmarks/objects.json
	@$(BIN)/python benchmarks/bench_control.py --out benchmarks/control.json

data: setup               ## make the small samples under data/ again
	@$(BIN)/python tools/make_data.py

clean:
	@rm -rf _proc _site _docs .pytest_cache runs/demo runs/demo-video runs/demo-objects runs/demo-control
