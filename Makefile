# Every target does its own set-up: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONTRACT := build/contract/.downloaded
WEB := build/cache/.onnxruntime-web
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: demo test test-quick check fuzz test-capped test-avx2 test-aarch64 test-cpp test-pythons test-gpu bench bench-all bench-gpu assets docs surfaces picture clean

demo: $(STAMP)
	$(BIN)/python -m kdcmae.bench.demo

# A process per core, each with one thread: the tests are many and small.
test: $(STAMP) $(CONTRACT) $(WEB)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# Two minutes' worth, for every save: no long proofs, few builds of engines, and no processes of training or benchmarks.
QUICK := tests/*.py tests/cli tests/data tests/drawing tests/evaluation tests/files tests/media tests/runtime tests/training \
	tests/weights tests/bench/report tests/kernels/test_configs.py \
	$(addprefix tests/compile/,test_gates.py test_cache.py test_parity.py test_planted_faults.py \
	test_proof_words.py test_cli.py::test_openvino test_cli.py::test_onnx)

test-quick: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu and not cpp" $(QUICK)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/site && $(PIP) install --quiet --no-deps --no-build-isolation --target build/site .
	cd build/site && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p kdcmae

# 2000 damaged files of each kind that people hand in: media, lists, shards, engine folders, cards, checkpoints.
# `make test` tries sixty of each.
fuzz: $(STAMP)
	KDCMAE_FUZZ=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --timeout 3600 tests/fuzz

# Engines once more with the instructions of a processor without AVX-512 and VNNI, as far as oneDNN, and so OpenVINO and
# PyTorch, goes: int8 products saturate there, and nothing multiplies bfloat16.
CAPPED := tests/runtime/test_openvino.py tests/runtime/test_engine.py tests/runtime/test_capabilities.py \
	tests/runtime/test_execution.py tests/runtime/test_check.py \
	tests/compile/test_quantize.py tests/compile/test_quantize_attention.py tests/compile/test_gates.py \
	tests/compile/test_cli.py

# Between those and this machine's: VNNI without AVX-512, and AVX-512 without VNNI.
CAPPED_BETWEEN := tests/runtime/test_openvino.py tests/runtime/test_check.py tests/compile/test_gates.py \
	tests/compile/test_saturation.py tests/compile/test_quantize_attention.py

# Faults in what int8 and bfloat16 engines compute: every breakage of an OpenVINO engine, and every planted fault.
CAPPED_FAULTS := tests/compile/test_selftest.py tests/compile/test_planted_faults.py

test-capped: $(STAMP)
	ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(CAPPED)
	ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(CAPPED_FAULTS) -k bf16
	for cap in AVX2_VNNI AVX512_CORE; do \
		ONEDNN_MAX_CPU_ISA=$$cap OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(CAPPED_BETWEEN) || exit; \
	done

# The runtime on an emulated x86 processor without AVX-512 and VNNI, ONNX Runtime included; the script says what that
# needs.
test-avx2: $(STAMP)
	tests/avx2/run

# The runtime on an emulated aarch64 device; the script says what that needs.
test-aarch64: $(STAMP)
	tests/aarch64/run

# The C++ header, built with g++ and run; the script says what that needs.
test-cpp: $(STAMP)
	tests/cpp/run

# The runtime's tests on every other supported Python that this machine has.
test-pythons: $(STAMP)
	tests/runtime/pythons

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

# The shipped model and the base preset on this machine: engines are compiled once, measuring takes about ten minutes.
# Writes bench/results/ and the tables of docs/measured.md. `kdcmae-bench compare` tells what became slower since the
# last run.
bench: $(STAMP)
	$(BIN)/kdcmae-bench suite
	$(BIN)/kdcmae-bench readme docs/measured.md

# All of that and every other precision and form of every target, some of which take minutes to build.
# Writes bench/results/all/, which `kdcmae-bench compare --all` compares; docs/measured.md shows the runs of `bench`.
bench-all: $(STAMP)
	$(BIN)/kdcmae-bench suite --all

# What `bench` does, where there is a GPU: after at most eight minutes for the kernels.
bench-gpu: $(STAMP)
	$(BIN)/kdcmae-bench kernels
	$(BIN)/kdcmae-bench suite
	$(BIN)/kdcmae-bench readme docs/measured.md

# The model that ships with the package, from nothing, by its recipes: about half an hour on one core. bf16 is
# fast only on CPUs that multiply it (AVX512_BF16, AMX); leave the setting out elsewhere. A run that was stopped goes
# on.
TRAIN := --set precision=bf16 --resume --json

assets: $(STAMP)
	mkdir -p out/assets
	OMP_NUM_THREADS=1 $(BIN)/kdcmae pretrain --data avsynth:2048 --output out/assets/pretrained $(TRAIN) \
		> out/assets/pretrained.json
	OMP_NUM_THREADS=1 $(BIN)/kdcmae finetune --data avsynth:6000 --output out/assets/finetuned $(TRAIN) \
		--checkpoint out/assets/pretrained/model.safetensors > out/assets/finetuned.json
	$(BIN)/python -m kdcmae.bench.studies.assets out/assets

# docs/settings.md, from the options of the commands and the dataclasses of the settings, and the README's table of what
# to expect, from bench/results/.
docs: $(STAMP)
	$(BIN)/python docs/tools/settings.py
	$(BIN)/python docs/tools/expect.py

# The table of docs/embed.md: how far every way of running the shipped model is from PyTorch, on CLIPS and a made clip.
surfaces: $(STAMP)
	$(BIN)/python docs/tools/surfaces.py $(CLIPS)

# docs/demo.svg: the demo, run and recorded.
picture: $(STAMP)
	rm -f out/demo.txt
	$(BIN)/python docs/tools/terminal.py

# 7 MB of genuine bindings that tests/contract holds the code against; nothing of them is installed.
$(CONTRACT): $(STAMP)
	mkdir -p $(@D)
	if $(PIP) download --quiet --no-deps --dest $(@D) tensorrt-cu13-bindings==10.16.1.11 && \
		$(PIP) download --quiet --no-deps --dest $(@D) tensorrt-cu13-bindings==11.4.0.106 torch-tensorrt==2.13.0; \
	then touch $@; else echo "no network: the contracts with TensorRT's bindings are not tested"; fi

# 14 MB of ONNX Runtime for browsers, with which tests/export runs the page of an engine.
$(WEB): kdcmae/export/onnxruntime_web.py $(STAMP)
	mkdir -p $(@D)
	if KDCMAE_CACHE=$(@D) $(BIN)/python -m kdcmae.export.onnxruntime_web; then touch $@; \
	else echo "THE PAGE OF AN ENGINE IS NOT TESTED IN A BROWSER: no npm, or no network"; fi

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "setuptools>=77" -c constraints.txt
	$(PIP) install --quiet -c constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf build out $(VENV) *.egg-info
