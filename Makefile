# make demo: train the embedded dataset, translate its test images, say where to look.
# make export: the demo's generator as SavedModel, LiteRT and ONNX files, and all of them compared.
# make web: the demo on a page, computed by the browser.
# make check: lint, types and the quick unit tests, in about two minutes.
# make test: lint, types, docs and all tests but the slow ones.
# make test-all: the slow tests, too: killed processes, browsers, the Android app, benchmarks.
# make arm: an emulated Arm machine for the tests of exported files; needs qemu-user-static.
# make docs: the documentation site, in site/.
# make floors: the tests of a plain installation, with the oldest versions that setup.cfg allows.
# make torture: kills, hostile files and full disks, over and over; about half an hour.
# demo needs nothing but Python and make. test-all also uses npm, Java and chromium: tests without
# them are skipped, with the reason.

PYTHON ?= python3
# TensorFlow Addons ends at Python 3.11: its tests are skipped, with a message, if no such Python is
# found.
PYTHON_ADDONS ?= $(shell for p in python3.11 python3.10; do $$p -c '' 2>/dev/null && echo $$p && break; done)
# TensorFlow logs its failed optimizations and absent GPUs as errors. Real errors are raised as
# Python exceptions.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo export web check test test-all docs torture floors lint venv tested addons jax arm clean

demo: venv
	.venv/bin/python scripts/train.py --preset=demo --run_dir=runs/demo
	.venv/bin/python scripts/translate.py --run_dir=runs/demo --direction=both --output=runs/demo/translated

runs/demo/a2b.keras:
	$(MAKE) demo

MODES = float32,float16,dynamic,int8,int16x8,int8_convolutions

export: tested runs/demo/a2b.keras
	rm -rf models/demo
	.venv/bin/python export/saved_model.py --run_dir=runs/demo --output=models/demo/a2b
	.venv/bin/python export/tflite.py --run_dir=runs/demo --modes=$(MODES) --output=models/demo/tflite
	.venv/bin/python export/onnx_file.py --run_dir=runs/demo --output=models/demo/a2b.onnx
	.venv/bin/python export/compare.py --run_dir=runs/demo --saved_model=models/demo/a2b \
		--tflite=models/demo/tflite --onnx=models/demo/a2b.onnx --output=models/demo

web: tested runs/demo/a2b.keras
	.venv/bin/python export/page.py --run_dir=runs/demo

# Quick unit tests: what they need is built in a moment, and most load no TensorFlow graph.
QUICK = config output losses schedules sheets folders metrics distances image_files features flags \
	discriminators generators layers callbacks lite_form model_file

check: tested lint
	.venv/bin/python -m pytest -q --numprocesses=2 $(QUICK:%=tests/test_%.py)

PYTEST = .venv/bin/python -m pytest -q --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: tested lint docs
	$(PYTEST) -m "not slow"

test-all: tested addons jax arm lint docs
	$(PYTEST) --durations=10

torture: tested
	.venv/bin/python tests/torture/images.py --count=3000
	.venv/bin/python tests/torture/served_requests.py --count=500
	.venv/bin/python tests/torture/training.py --kills=30
	.venv/bin/python tests/torture/full_disk.py || [ $$? = 77 ]
	.venv/bin/python tests/torture/translate_many.py --kills=8
	.venv/bin/python tests/torture/exporters.py --kills=3

docs: tested
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

lint: tested
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

venv: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet --editable .
	touch $@

tested: .venv/tested

# clean-fid is installed without its dependency torchvision, which cannot be imported together with
# the CPU build of PyTorch.
.venv/tested: .venv/installed
	.venv/bin/pip install --quiet --editable ".[test]"
	.venv/bin/pip install --quiet --no-deps clean-fid==0.1.35
	touch $@

# The tests of what a plain installation does, with the oldest versions that setup.cfg allows.
FLOORS = config losses schedules layers generators discriminators image_pool image_files folders \
	synthetic data translate old_files public_api

floors: .venv-floors/installed
	.venv-floors/bin/python -m pytest -q $(FLOORS:%=tests/test_%.py)

.venv-floors/installed: setup.cfg tests/floors.txt
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/pip install --quiet --constraint tests/floors.txt --editable . "pytest>=8"
	touch $@

ifneq ($(PYTHON_ADDONS),)
addons: .venv-addons/installed
endif

.venv-addons/installed: tests/addons/requirements.txt
	$(PYTHON_ADDONS) -m venv .venv-addons
	.venv-addons/bin/pip install --quiet --requirement tests/addons/requirements.txt
	touch $@

# The machine without TensorFlow, of benchmarks/xla/run.py. TensorFlow imports JAX if it finds it,
# which takes a second of every process.
jax: .venv-jax/installed

.venv-jax/installed: tests/jax.txt benchmarks/xla/requirements.txt
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/pip install --quiet --requirement tests/jax.txt
	touch $@

# Exit code 77: this machine has no emulator, and the tests say so.
arm: tested
	tests/arm/prepare.sh .venv-arm .venv/bin/pip || [ $$? = 77 ]

clean:
	rm -rf .venv .venv-addons .venv-jax .venv-floors .venv-arm
