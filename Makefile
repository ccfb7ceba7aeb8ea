# Needs make, a POSIX shell and Python 3.11 or newer; everything else goes into .venv.
# Say PYTHON=/path/to/python to choose the interpreter, ARGS=... to pass words on to a command.

NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
PY = "$(or $(PYTHON),python3)"
ARGS ?=

BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench pages schema constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/plain ## plan a grid, run it on workers with the model in the box, verify and read the cube, answer
	$(BIN)/python docs/demo.py $(ARGS)

test: .venv/dev ## run the tests on all cores (ARGS="-n 0": on one; HYPOTHESIS_PROFILE=thorough for many more examples)
	$(BIN)/pytest -n auto --dist loadfile --durations=25 $(ARGS)

# mypy must see the repository root under the package's name, hence the link.
check: .venv/dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p .types && ln -sfn .. .types/tempocube
	MYPYPATH=.types $(BIN)/mypy -p tempocube
	MYPYPATH=.types:benchmarks $(BIN)/mypy --explicit-package-bases benchmarks

format: .venv/dev ## put the code into the form that check wants
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/plain ## measure what storing a cube costs (the engine: benchmarks/engine.py, BLAS: benchmarks/blas.py)
	$(BIN)/python benchmarks/storage.py $(ARGS)

pages: .venv/plain ## run the documentation's pages and renew what they show
	$(BIN)/python docs/execute.py docs/tutorial.md docs/howto/*.md --write

schema: .venv/plain ## renew the parts of docs/ that are made from the code
	$(BIN)/python docs/generate.py

# The newest versions that pyproject.toml allows; run `make check test` before keeping them.
# MLX brings its back end as a package of its own, another one on each system.
constraints: .venv/made ## pin the newest versions of everything in constraints.txt
	$(BIN)/python -m venv --clear .venv/pins
	.venv/pins/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,s3]'
	.venv/pins/bin/python -m pip freeze --exclude-editable > .venv/pins/freeze.txt
	@awk -F '==' 'BEGIN {print "# Versions known to work together, written by make constraints."} \
	  /^mlx-(cpu|metal)==/ {next} {print} \
	  /^mlx==/ {print "mlx-cpu==" $$2 "; sys_platform == \"linux\""; \
	            print "mlx-metal==" $$2 "; sys_platform == \"darwin\""}' .venv/pins/freeze.txt > .venv/pins.txt
	mv .venv/pins.txt constraints.txt
	rm -rf .venv/pins

clean: ## remove .venv and all caches
	rm -rf .venv .types .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# An interrupted set-up leaves no stamp, so the next make starts it again.
.venv/made:
	@$(PY) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  echo "tempocube needs Python 3.11 or newer; "$(PY)" is older or not there." >&2; \
	  echo "  Debian, Ubuntu:  apt-get install python3 python3-venv" >&2; \
	  echo "  macOS:           brew install python" >&2; \
	  echo "  elsewhere:       make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PY) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo $(PY)" lacks its venv module (or ensurepip), which sets up .venv." >&2; \
	  echo "  Debian, Ubuntu:  apt-get install python3-venv" >&2; \
	  echo "  macOS:           brew install python" >&2; exit 1; }
	$(PY) -m venv --clear .venv
	@touch $@

.venv/plain: .venv/made pyproject.toml constraints.txt
	@echo "Installing tempocube and what it needs into .venv (a minute or two the first time)"
	$(INSTALL) -e .
	@touch $@

.venv/dev: .venv/made pyproject.toml constraints.txt
	@echo "Installing tempocube and its development tools into .venv (a minute or two the first time)"
	$(INSTALL) -e '.[dev]'
	@touch .venv/plain $@
