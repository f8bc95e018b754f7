# Two commands: `make demo` shows the product at work, `make test` proves it. Both do all the set-up.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PINS := pyproject.toml constraints.txt

.PHONY: demo viewer test test-fast lint bundles demo-bundles clean

demo: $(VENV)/.serving ## a study in by C-STORE, results back in a small PACS, shown in demo-output/index.html
	$(BIN)/cervinode demo --out demo-output $(if $(STUDY),--study "$(STUDY)")

viewer: $(VENV)/.serving ## the demonstration's study and results in OHIF, in front of a temporary Orthanc
	deploy/system-packages.sh viewer
	$(BIN)/python deploy/viewer/serve.py demo-output

test: $(VENV)/.training lint ## everything, with Orthanc, dcmtk and dicom3tools as judges
	deploy/system-packages.sh test
	$(BIN)/python -m pytest

test-fast: $(VENV)/.testing ## about three minutes, without training libraries and foreign servers
	$(BIN)/python -m pytest -m "not slow and not train"

lint: $(VENV)/.testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bundles demo-bundles: $(VENV)/.training ## rebuild every committed demo bundle from its seeds
	$(BIN)/cervinode demo-bundles

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info

# pyradiomics ships no wheel and needs its build requirements installed first.
$(VENV)/.serving: $(PINS)
	deploy/system-packages.sh serve
	$(PYTHON) -m venv $(VENV)
	$(PIP) numpy versioneer setuptools wheel cython
	$(PIP) --no-build-isolation pyradiomics
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.testing: $(VENV)/.serving
	$(PIP) --no-build-isolation --editable '.[test]'
	touch $@

$(VENV)/.training: $(VENV)/.testing
	$(PIP) --no-build-isolation --editable '.[train]'
	touch $@
