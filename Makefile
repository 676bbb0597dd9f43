# One way to start everything: `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/trainingsession
UV := $(CACHE)/uv-$(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements/uv.txt)/bin/uv
VENV := .venv
BIN := $(VENV)/bin
CHECKERS := .venv-checkers
# Trust the certificates that the machine trusts.
export UV_SYSTEM_CERTS := 1
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or later is needed as '$(PYTHON)'; install it or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing uv"
	@$(PYTHON) -m venv $(dir $(@D))
	@$(@D)/pip install --quiet --require-hashes --requirement requirements/uv.txt

.PHONY: sync
sync: $(VENV)/.synced ## Install exactly the pinned dependencies and both members into .venv

$(VENV)/.synced: requirements/development.txt operator/pyproject.toml trainer/pyproject.toml | $(UV)
	@echo "installing the pinned dependencies into $(VENV) (TensorFlow is large)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --python $(VENV) --require-hashes requirements/development.txt
	@$(UV) pip install --quiet --python $(VENV) --no-deps --editable operator --editable trainer
	@touch $@

.PHONY: lock
lock: | $(UV) ## Compile requirements/*.txt anew; UPGRADE=--upgrade takes newer versions
	@UV=$(UV) requirements/compile $(UPGRADE)

.PHONY: lint
lint: sync ## Style of Python, shell and YAML, and the direction of imports
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "run .venv/bin/ruff format ." >&2; exit 1; }
	@$(BIN)/lint-imports --no-logo
	@git ls-files | xargs grep -lE '^#!.*\b(ba)?sh\b' -- 2>/dev/null | xargs $(BIN)/shellcheck
	@$(BIN)/yamllint --strict manifests charts/trainingsession/values.yaml charts/trainingsession/Chart.yaml examples .github

.PHONY: types
types: sync ## Types of both members and of the example service (mypy, strict)
	@$(BIN)/mypy operator/src/trainingsession_operator
	@$(BIN)/mypy trainer/src/trainingsession_trainer
	@cd examples/serve && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml session_server

.PHONY: generate
generate: sync ## Write what is derived: from the CRD the chart's copy and docs/spec.md, from the chart its README and kustomize's base
	@PATH=$(CURDIR)/$(BIN):$$PATH charts/generate
	@charts/plain base
	@PATH=$(CURDIR)/$(BIN):$$PATH charts/values-table
	@text=$$(PATH=$(CURDIR)/$(BIN):$$PATH docs/generate) && printf '%s\n' "$$text" > docs/spec.md

.PHONY: verify
verify: sync $(CHECKERS)/.synced ## Check that what is derived is up to date, and what bandit, checkov, hadolint and actionlint find
	@PATH=$(CURDIR)/$(BIN):$$PATH charts/generate --check
	@charts/plain check
	@PATH=$(CURDIR)/$(BIN):$$PATH charts/values-table --check
	@text=$$(PATH=$(CURDIR)/$(BIN):$$PATH docs/generate) && printf '%s\n' "$$text" | diff -u docs/spec.md - || { echo "docs/spec.md is out of date; run \`make generate\` and commit the result" >&2; exit 1; }
	@release/version
	@CHECKERS=$(CURDIR)/$(CHECKERS)/bin tests/checkers/run

$(CHECKERS)/.synced: requirements/checkers.txt | $(UV)
	@echo "installing the tools that judge security into $(CHECKERS)"
	@test -x $(CHECKERS)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(CHECKERS)
	@$(UV) pip sync --quiet --python $(CHECKERS) --require-hashes requirements/checkers.txt
	@touch $@

.PHONY: audit
audit: $(CHECKERS)/.synced ## Known vulnerabilities of every pinned package; asks PyPI's database, so it needs the internet
	@for name in operator trainer-cpu trainer-cuda; do echo "requirements/$$name.txt"; $(CHECKERS)/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement requirements/$$name.txt; done

.PHONY: sbom
sbom: $(CHECKERS)/.synced ## Bills of materials (CycloneDX) of both images' Python packages, written to .sbom/
	@$(CHECKERS)/bin/python requirements/sbom .sbom --cyclonedx $(CHECKERS)/bin/cyclonedx-py

.PHONY: release-check
release-check: ## Whether a version can be tagged: the same everywhere, in the changelog, all derived, the chart below 100 KB
	@release/check

.PHONY: install-yaml
install-yaml: ## The chart as a package and as one plain file, written to dist/; REGISTRY=HOST/PATH names where their images are
	@release/artefacts dist $(REGISTRY)

.PHONY: test-fast
test-fast: sync ## Unit and contract tests: no cluster, no TensorFlow, under 30 seconds
	@$(BIN)/pytest -q tests/unit tests/contract

.PHONY: test
test: ## Everything: lint, types, unit, contract, integration, and the chart on a real cluster
	@tests/run

.PHONY: cluster
cluster: ## A cluster to run on: TS_KUBECONFIG, else kind, else a real single node built from Go modules
	@tests/cluster/up

.PHONY: cluster-down
cluster-down: ## Remove the cluster that `make cluster` made
	@tests/cluster/down

.PHONY: images
images: cluster | $(UV) ## Build the images and load them into the cluster
	@tests/cluster/images

.PHONY: demo
demo: ## Cluster, images, chart, a session, its accuracy, and how to get the model
	@tests/cluster/demo

.PHONY: demo-down
demo-down: ## Remove what `make demo` installed; the cluster stays
	@tests/cluster/demo-down

.PHONY: try
try: sync ## The same session without a cluster, in three minutes
	@$(BIN)/trainingsession-trainer run manifests/samples/digits.yaml --data .try

.PHONY: bench
bench: bench-trainer bench-operator ## Figures of everything, on a machine that does nothing else

.PHONY: bench-trainer
bench-trainer: sync ## Figures of the trainer beside their peers, written to docs/benchmarks.md
	@$(BIN)/python benchmarks/trainer.py

.PHONY: bench-operator
bench-operator: sync ## Figures of the operator beside a raw client, written to docs/benchmarks-operator.md
	@$(BIN)/python benchmarks/bench_operator.py
