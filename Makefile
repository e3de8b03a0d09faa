PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: train test test-all test-newest test-hydra14 lint ui bench constraints clean

train: $(READY) ## train the default model on real data and record the run
	$(BIN)/python scripts/train.py

test: $(READY) ## the default tests: no network, no GPU
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(READY) ## the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

# What a new version of a library breaks first: the private names that we use, the composed configs, a few trainings.
# NEWEST=1 .ci/run runs test-newest too. Both install into environments of their own and take minutes.
UPGRADE_TESTS := tests/compat tests/config tests/configs tests/run/test_record.py tests/sweep/test_optuna_plan.py

test-newest: ## with the newest versions that pyproject.toml allows
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,compression]'
	.venv-newest/bin/python -m pip list --format freeze | grep -E '^(torch|pytorch-lightning|mlflow|optuna|hydra-core|omegaconf)=='
	.venv-newest/bin/python -m pytest $(UPGRADE_TESTS)
	rm -rf .venv-newest

test-hydra14: ## with the release candidate of Hydra 1.4, which pyproject.toml does not allow yet
	rm -rf .venv-hydra14
	$(PYTHON) -m venv .venv-hydra14
	.venv-hydra14/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,compression]'
	.venv-hydra14/bin/python -m pip install --quiet --disable-pip-version-check 'hydra-core>=1.4.0rc1,<1.5'
	.venv-hydra14/bin/python -m pip list --format freeze | grep -E '^(hydra-core|omegaconf)=='
	.venv-hydra14/bin/python -m pytest $(UPGRADE_TESTS)
	rm -rf .venv-hydra14

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(READY) ## MLflow on loopback with this store
	$(BIN)/python scripts/ui.py

bench: $(READY)
	$(BIN)/python scripts/benchmark.py all

# Installed again only where what is to be installed has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing: on Debian, apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,compression]'
	@touch $(READY)

constraints: ## renew constraints.txt: the newest versions that pyproject.toml allows
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,compression,slurm,ray,postgres,text,detection,voices,reference,classics,interop]'
	.venv-newest/bin/python -m pip freeze --exclude-editable --exclude touchstone-harness > constraints.txt
	rm -rf .venv-newest

clean:
	rm -rf $(VENV) .venv-newest .venv-hydra14
