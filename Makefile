# make quickstart [TEXT=path]   train a first model      make test   check everything      make install   .venv alone
# make simulations [LOGS='evaluations/...jsonl']   are the comparisons' errors what they say? (a quarter of an hour)
# make study-simulations   are the verdicts of studies what they claim? (five minutes)
# make judging-simulations   are the figures and the flags of judges what they claim? (five minutes)
# make studies [TEXT=path]   the study of nano-char: 70 runs, about an hour on two cores
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SHAKESPEARE = $(if $(TEXT),$(TEXT),../shared/data/tinyshakespeare/input.txt)

.PHONY: install quickstart test test-interop lint simulations study-simulations judging-simulations studies cluster \
  skypilot llama-cpp clean

install: $(VENV)/installed

# torch comes first, by its pinned version: a looser request would fetch gigabytes of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/python -m scratchlab.cli.quickstart $(if $(TEXT),--text '$(TEXT)')

test: install lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet

# Exports in transformers without scratchlab: this release, and an older one (two environments of 1.2 GB; 40 minutes).
# Then GGUF in llama.cpp itself and ONNX in onnxruntime, and every switch of a GPT as ONNX.
test-interop: install build/interop/current/installed build/interop/older/installed build/llama-cpp/installed
	$(BIN)/python -m pytest tests/interop/matrix.py tests/interop/matrix_files.py tests/interop/matrix_onnx.py --quiet

build/interop/current/installed: TRANSFORMERS = $$($(BIN)/python -c 'import transformers; print(transformers.__version__)')
build/interop/older/installed: TRANSFORMERS = 4.57.*
build/interop/%/installed:
	$(PYTHON) -m venv build/interop/$*
	build/interop/$*/bin/pip install --quiet $$(grep '^torch==' constraints.txt)
	build/interop/$*/bin/pip install --quiet "transformers==$(TRANSFORMERS)" accelerate jinja2 onnxruntime peft
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

simulations: install
	$(BIN)/python benchmarks/comparison_simulations.py $(if $(LOGS),--log $(LOGS))

study-simulations: install
	$(BIN)/python benchmarks/study_simulations.py

judging-simulations: install
	$(BIN)/python benchmarks/judging_simulations.py

studies: install
	test -d corpora/shakespeare || $(BIN)/scratchlab corpus build '$(SHAKESPEARE)' --out corpora/shakespeare \
	  --tokenizer char --split contiguous:.9,.05,.05
	$(BIN)/scratchlab study run studies/nano-char.toml --workers 2

# Ray and Slurm, with machines killed: some minutes.
cluster: install
	$(BIN)/python -m pytest tests/study/ray_local.py tests/study/ray_cluster.py tests/study/slurm_cluster.py --quiet

# The task file against SkyPilot itself, in an environment of its own (460 MB).
skypilot: install
	$(PYTHON) -m venv build/skypilot
	build/skypilot/bin/pip install --quiet skypilot
	$(BIN)/scratchlab study export studies/nano-char.toml --skypilot build/task.yaml --accelerators H100:8 --cloud aws
	build/skypilot/bin/python tests/study/skypilot_schema.py build/task.yaml

# llama.cpp itself reads, scores and writes with our GGUF, in an environment of its own: cyllama's wheel brings it compiled.
llama-cpp: install build/llama-cpp/installed
	$(BIN)/python -m pytest tests/interop/matrix_llama_cpp.py --quiet

build/llama-cpp/installed:
	$(PYTHON) -m venv build/llama-cpp
	build/llama-cpp/bin/pip install --quiet cyllama
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache
