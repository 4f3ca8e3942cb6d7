# Everything runs inside .venv, pinned by constraints.txt. `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Each worker of pytest keeps to one thread. There are two more than cores: tests also wait, for processes and browsers.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)

.PHONY: install demo test durations lint bench release docs clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,captum,lightning,onnx,ray,text,timm,torchvision,transformers]"
	$(BIN)/python -m compileall -q src # once, not by each of the processes that begin together
	touch $(STAMP)

demo: install
	$(BIN)/stillroom demo

CHECKS := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lint: install
	$(CHECKS)

# The checks run beside the tests and are shown after them. Python keeps what it compiled for the processes to come.
test: install
	@{ $(CHECKS); } > $(VENV)/lint.log 2>&1 & lint=$$!; \
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --workers $(WORKERS); tests=$$?; \
	wait $$lint; linted=$$?; cat $(VENV)/lint.log; exit $$((tests ? tests : linted))

# Measures how long each file of tests takes, for the order in which `make test` begins them.
durations: install
	STILLROOM_WRITE_DURATIONS=1 $(BIN)/pytest --workers $(WORKERS)

bench: install
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/wall.py --table
	$(BIN)/python benchmarks/sources.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/pixel_entropy.py

# The built wheel in empty environments: each extra, lowest and highest versions, each Python that is at hand.
release: install
	$(BIN)/python -m pip install --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/release.py --out docs/results/release.md

# The pages in docs/ as a site in site/, which opens from the disk. Links are checked; a warning is an error.
docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
