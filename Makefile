# Set up, demonstrate, check and test. `make demo` is the first thing to run on a fresh machine.
.PHONY: setup demo check style test clean

VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin

setup: $(VENV)/.installed ## make the virtual environment and install the package into it

$(VENV)/.installed: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) bash scripts/install.sh
	touch $@

demo: setup ## the whole way on the bundled sample, into runs/demo (CPU, a few minutes)
	$(BIN)/shridhar-ft run recipes/demo launch.config=accelerate_configs/cpu.yaml
	$(BIN)/shridhar-ft chat runs/demo --greedy --max-new-tokens 40 --prompt "Что делать, когда трудно молчать?"

check: setup ## lint, format and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: setup ## rewrite what can be rewritten
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## every test, the end-to-end ones too; a file's tests stay in one of the two workers
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean: ## remove the environment and the demo run
	rm -rf $(VENV) runs/demo
