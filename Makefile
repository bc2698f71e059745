# The commands for working on this template, and for trying it. `make` lists them.

UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
UV_PROJECT_ENVIRONMENT ?= .venv
export UV_PROJECT_ENVIRONMENT
unexport VIRTUAL_ENV
PYTHON := $(UV_PROJECT_ENVIRONMENT)/bin/python
COPIER := $(UV) tool run --quiet "copier>=9.18"
dir ?= ../my-service

ifeq ($(OS),Windows_NT)
$(error Windows is not supported: use WSL)
endif

.PHONY: help install demo test check benchmark format

help: ## list the commands
	@awk 'BEGIN {FS = ":[^#]*## "} /^[a-z-]+:[^#]*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(UV) ## generate a service and start it: make demo dir=../my-service data="-d database=sqlite"
	@if test -f "$(dir)/.copier-answers.yml"; then \
		echo "$(dir) is there already: starting it as it is"; \
	elif test -e "$(dir)"; then \
		echo "$(dir) is something else: name a new directory, as in make demo dir=../other" >&2; exit 1; \
	else \
		$(COPIER) copy --defaults --vcs-ref HEAD $(data) "$(CURDIR)" "$(dir)"; \
	fi
	@PATH="$(CURDIR)/.uv/bin:$$PATH" exec env -u UV_PROJECT_ENVIRONMENT $(MAKE) --no-print-directory -C "$(dir)" dev

test: install ## all tests of the template (args="tests/test_render.py" selects)
	@exec $(PYTHON) -m pytest $(args)

check: install ## format, lint, types and tests
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@exec $(PYTHON) -m pytest $(args)

benchmark: install ## the figures in the README
	@$(PYTHON) benchmarks/service.py
	@$(PYTHON) benchmarks/recovery.py
	@$(PYTHON) benchmarks/throughput.py

format: install ## format the code and mend what the linter can
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

install: $(UV)
	@{ test -f uv.lock && $(UV) sync --check --quiet 2>/dev/null; } || \
		{ echo "Installing the dependencies into $(UV_PROJECT_ENVIRONMENT)" >&2; $(UV) sync --quiet; }

.uv/bin/uv:
	@echo "Fetching uv into .uv, as it is not on the PATH" >&2
	@python3 -m pip install --quiet --target .uv uv || \
		{ echo "Install uv yourself: https://docs.astral.sh/uv/getting-started/installation/" >&2; exit 1; }
