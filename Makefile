# Two commands on a fresh machine: make demo, make test. Both make .venv first, from the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-shared-data test-browser test-web-fuzz test-ray benchmark lint types dist clean

demo: $(VENV)/.installed
	rm -rf udq-demo
	$(BIN)/udq demo -o udq-demo

# Worker processes of pytest.
WORKERS ?= 2
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not shared_data and not browser and not web_fuzz and not ray"

# Needs the benchmark photos: UDQ_SHARED_DATA=FOLDER, or ../shared/data.
test-shared-data: $(VENV)/.installed
	$(BIN)/python -m pytest -m "shared_data and not browser" -rs

# The page in the system's Chromium, with real photos too where the benchmark photos are; skipped without a browser.
test-browser: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r tests/browser/requirements.txt
	$(BIN)/python -m pytest -m browser tests/browser -rs

# Requests that schemathesis makes up from the description of the API: no answer is a server's error.
test-web-fuzz: $(VENV)/.installed
	$(BIN)/python -m pytest -m web_fuzz

# Clusters of several nodes on this machine, of which some are killed.
test-ray: $(VENV)/.installed
	$(BIN)/python -m pytest -m ray

# All benchmarks of speed, about an hour: make benchmark PHOTOS=FOLDER, best of some thousand photos. JSON comes to OUT.
OUT ?= udq-benchmark
benchmark: $(VENV)/.installed
	$(BIN)/python benchmarks/speed $(or $(PHOTOS),$(error PHOTOS is not set; run: make benchmark PHOTOS=FOLDER)) -o $(OUT)

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

# dist/: an sdist, and a wheel for this platform.
dist: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build

$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard src/native/*)
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11, 4) else "udq needs Python 3.11.4 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) udq-demo udq-benchmark dist
