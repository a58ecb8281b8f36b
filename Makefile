# Every target does its own set-up: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: demo test check test-gpu bench bench-gpu clean

demo: $(STAMP)
	$(BIN)/python -m kdcmae.bench.demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/site && $(PIP) install --quiet --no-deps --no-build-isolation --target build/site .
	cd build/site && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p kdcmae

# The kernels' comparisons with float64 run once more under compute-sanitizer, which finds accesses out of bounds;
# PyTorch's allocator would hide them, and API errors that PyTorch handles are none of the kernels'.
SANITIZED := tests/kernels/test_attention.py tests/kernels/test_patch_embed.py

test-gpu: $(STAMP)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu -rs
	@if command -v compute-sanitizer > /dev/null; then \
		TRITON_INTERPRET=0 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
			$(BIN)/python -m pytest -m gpu --timeout 0 $(SANITIZED); \
	else \
		echo "compute-sanitizer is not on the PATH: the kernels did not run under it"; \
	fi

# The base preset on this machine: OpenVINO engines against PyTorch in one interleaved run.
BENCH_PRECISIONS := fp32 fp16 bf16

bench: $(STAMP) $(BENCH_PRECISIONS:%=out/bench/openvino-%)
	$(BIN)/kdcmae-bench preset:base $(BENCH_PRECISIONS:%=out/bench/openvino-%) --seconds 20 --output out/bench/base.json

out/bench/openvino-%: $(STAMP)
	$(BIN)/kdcmae-compile --target openvino --preset base --random-weights --precision $* --output $@

# At most eight minutes of GPU time: checks, times, and writes bench/results/ and the README's tables.
bench-gpu: $(STAMP)
	$(BIN)/kdcmae-bench kernels
	$(BIN)/kdcmae-bench readme README.md

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "setuptools>=64" -c constraints.txt
	$(PIP) install --quiet -c constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf build out $(VENV) *.egg-info
