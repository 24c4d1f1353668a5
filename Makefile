# Each target makes its own set-up (scripts/setup) and works on a fresh machine.
BIN := .venv/bin
# What tests fetch and build once; never inside the checkout.
export TRANSHIP_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tranship

.PHONY: help setup demo check unit test bench cluster e2e-cluster image manifests format lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

setup:  ## install the product into .venv
	@scripts/setup run

demo:  ## start the lab and move five machines out of it
	@scripts/setup demo
	@$(BIN)/tranship demo

check:  ## format, lint, types, import rules, dead code
	@scripts/setup check
	@scripts/check

test: check  ## check, then every test
	@scripts/setup test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n 2 --dist worksteal --durations 15 $(ARGS)

unit:  ## the quick tests only
	@scripts/setup check
	$(BIN)/pytest -n 2 --dist worksteal tests/unit tests/walks $(ARGS)

bench:  ## measure the copy engine against its peers, and what idle migrations cost
	@scripts/setup test
	@missed=0; for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || missed=1; done; exit $$missed

cluster:  ## run a genuine Kubernetes cluster of one node, until Ctrl-C
	@scripts/setup test
	@$(BIN)/python tests/cluster/node.py

e2e-cluster:  ## the tests that need that cluster
	@scripts/setup test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest --durations 15 tests/e2e/test_cluster*.py tests/e2e/test_lab_kubevirt.py $(ARGS)

image:  ## make dist/tranship-image.tar, an OCI archive
	@scripts/setup run
	@$(BIN)/python scripts/image

manifests:  ## make the resource definitions in deploy/ anew from the models
	@scripts/setup run
	@{ echo "# Made from the models by \`make manifests\`. Do not edit."; $(BIN)/tranship crds; } >deploy/base/crds.yaml

format:  ## rewrite the sources as ruff wants them
	@scripts/setup check
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock:  ## make requirements/*.txt anew from pyproject.toml
	scripts/lock $(ARGS)

clean:  ## forget everything that was installed or cached here
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
