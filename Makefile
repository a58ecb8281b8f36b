# Every target does its own set-up: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: demo test check test-gpu bench clean

demo: $(STAMP)
	$(BIN)/python -m kdcmae.bench.demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/site && $(PIP) install --quiet --no-deps --no-build-isolation --target build/site .
	cd build/site && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p kdcmae

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# The base preset on this machine: OpenVINO engines against PyTorch in one interleaved run.
BENCH_PRECISIONS := fp32 fp16 bf16

bench: $(STAMP) $(BENCH_PRECISIONS:%=out/bench/openvino-%)
	$(BIN)/kdcmae-bench preset:base $(BENCH_PRECISIONS:%=out/bench/openvino-%) --seconds 20 --output out/bench/base.json

out/bench/openvino-%: $(STAMP)
	$(BIN)/kdcmae-compile --target openvino --preset base --random-weights --precision $* --output $@

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "setuptools>=64" -c constraints.txt
	$(PIP) install --quiet -c constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf build out $(VENV) *.egg-info
