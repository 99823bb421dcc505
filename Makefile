# make demo       train a small model and watch it learn to tell a story (ARGS="--help" shows its options)
# make notebook   open the six notebooks in JupyterLab
# make test       everything that CI checks
# make docs       build the site into _docs
# make export     from the notebooks, write the modules and README.md
# make run        run the notebooks and keep their outputs, then the same
# make clean      remove what was built; the environment in .venv stays

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
NBS    := $(sort $(wildcard nbs/[0-9]*.ipynb)) nbs/index.ipynb
ARGS   ?=

.PHONY: demo notebook test docs export run clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	@$(BIN)/slm-demo $(ARGS)

notebook: $(VENV)/.dev
	@$(BIN)/jupyter lab nbs/00_tokenizer.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest tests -ra --durations=12 $(ARGS)

docs: $(VENV)/.dev
	@$(BIN)/python tools/build_docs.py

export: $(VENV)/.dev
	@$(BIN)/nbdev_clean && $(BIN)/nbdev_export && $(BIN)/python tools/build_docs.py --readme

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
