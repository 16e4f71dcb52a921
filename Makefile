# make demo: train the embedded data set, translate its test pictures, say where to look.
# make test: lint, types and the whole test suite. Both need nothing but Python and make.

PYTHON ?= python3
# TensorFlow Addons ends at Python 3.11; its lane is skipped, with the reason, where none is found.
PYTHON_ADDONS ?= $(shell for p in python3.11 python3.10; do $$p -c '' 2>/dev/null && echo $$p && break; done)
# TensorFlow logs its failed optimisations and absent GPUs as errors; real ones reach Python anyway.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint venv addons clean

demo: venv
	.venv/bin/python scripts/train.py --run_dir=runs/demo
	.venv/bin/python scripts/translate.py --run_dir=runs/demo --direction=both --output=runs/demo/translated

test: venv addons lint
	.venv/bin/python -m pytest -q --durations=10

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

venv: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet --editable ".[test]"
	touch $@

ifneq ($(PYTHON_ADDONS),)
addons: .venv-addons/installed
endif

.venv-addons/installed: tests/addons/requirements.txt
	$(PYTHON_ADDONS) -m venv .venv-addons
	.venv-addons/bin/pip install --quiet --requirement tests/addons/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-addons
