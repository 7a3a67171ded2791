# Everything installs itself into .venv; nothing here needs root, Docker or a service installed by hand.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The one torch of this project. From the usual index it brings CUDA with it (some GB); where pip is pointed at an index
# of CPU builds (or at both), `torch==2.13.0` takes the CPU build and nothing later replaces it.
TORCH := torch==2.13.0
PYTEST_PROCESSES ?= auto

.DEFAULT_GOAL := help
.PHONY: help install demo demo-retrain test check format constraints demo-checkpoint eval-demo bench-detector bench-finetune bench-gpu bench-dashboard bench-intake bench-pipeline bench-growth gate-check chaos clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Telltale needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@test -d $(VENV) || { echo "Making $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch (the largest part) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH)
	@echo "Installing the rest …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@echo "Fetching the files that the tests of attacks send …"
	@$(BIN)/python -m tests.attacks.corpus
	@touch $@

install: $(STAMP)  ## Create .venv and install Telltale with everything it needs to run and to be tested.

demo: $(STAMP)  ## Start everything, submit sample images, show what happens; ONCE=1 ends after the table.
	@$(BIN)/telltale demo $(if $(ONCE),--once)

demo-retrain: $(STAMP)  ## Start everything, have moderators teach the model a new type of fake; ONCE=1 ends after the table.
	@$(BIN)/telltale demo-retrain $(if $(ONCE),--once)

test: $(STAMP)  ## Run every test, in parallel processes, against real services started for them.
	@$(BIN)/pytest -n $(PYTEST_PROCESSES)

check: $(STAMP)  ## Lint, format, types, imports, migrations, the compose file, the documents, and what bandit finds unsafe.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --config importlinter.toml
	$(BIN)/python -c 'from alembic import command; import migrations; command.upgrade(migrations.config("postgresql://"), "head", sql=True)' \
		| $(BIN)/squawk --stdin-filepath migrations.sql
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/hadolint infra/docker/*.Dockerfile
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/bandit --quiet --recursive --severity-level medium --confidence-level medium \
		api benchmarks infra migrations model moderation workers

format: $(STAMP)  ## Format the code.
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format

demo-checkpoint: $(STAMP)  ## Rebuild the demo checkpoint from its recipe (a CPU is enough).
	$(BIN)/python -m model.demo build

eval-demo: $(STAMP)  ## Measure the demo checkpoint again on its held-out images.
	@$(BIN)/python -m model.demo evaluate

bench-detector: $(STAMP)  ## Time our engine against the published evaluation loop and a sensible one, on the same weights.
	@$(BIN)/python -m benchmarks.detector

bench-finetune: $(STAMP)  ## Time our trainer against one with the published recipe's waste, on the same rows.
	@$(BIN)/python -m benchmarks.finetune

bench-gpu: $(STAMP)  ## Time FakeVLM's size on the GPU at hand, with random weights.
	@$(BIN)/python -m benchmarks.gpu

bench-dashboard: $(STAMP)  ## Time the dashboard's queue and case pages on 10,000 and on 1,000,000 cases.
	@$(BIN)/python -m benchmarks.dashboard

chaos: $(STAMP)  ## Kill, pause and starve everything under load, then account for every submission; SEED=… repeats a run.
	@$(BIN)/python -m benchmarks.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

bench-intake: $(STAMP)  ## Time durable accepts against bare puts and commits on the same services.
	@$(BIN)/python -m benchmarks.intake

bench-pipeline: $(STAMP)  ## Time the whole service against the bare detector, and the hops of a case.
	@$(BIN)/python -m benchmarks.pipeline

bench-growth: $(STAMP)  ## Time both on up to a million cases, and watch memory over thousands of images.
	@$(BIN)/python -m benchmarks.growth

gate-check: $(STAMP)  ## Plant seven bad challengers and a good one; the gate must block the bad for the right reason.
	@$(BIN)/python -m benchmarks.gate

# Without torch's own pins of CUDA packages, which depend on the build of torch, and without any address.
constraints:  ## Pin every dependency anew in constraints.txt.
	$(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --all-extras --no-header --no-annotate --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --no-emit-options --upgrade-package $(TORCH) --output-file - \
		pyproject.toml | sed -E -e '/^(#|telltale @|nvidia-|cuda-|triton|$$)/d' -e 's/^(torch==[0-9.]+)\+.*/\1/' \
		> constraints.new
	mv constraints.new constraints.txt

clean:  ## Remove what the tools and the embedded stack keep; .venv stays.
	rm -rf .telltale build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
