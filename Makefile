# Needs python3 (3.11 or later) and make; `buf` needs node as well. All that is installed goes into .venv and .tools.
PYTHON ?= python3
BIN := .venv/bin
BUF := .tools/buf/node_modules/.bin/buf
AGAINST ?= HEAD
LISTEN ?= 127.0.0.1:7000
SIDE_BY_SIDE ?= 4

.PHONY: install run check test test-slow lint types proto buf workers bench

install: .venv/.installed
.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is older than 3.11: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@
run: install
	@$(BIN)/gatecrew up examples.chat.worker:worker --workers 3 --listen $(LISTEN) \
		--client "$(BIN)/python -m examples.chat.client {}" \
		|| { code=$$?; [ $$code != 2 ] || echo "make run LISTEN=127.0.0.1:PORT takes another port" >&2; exit $$code; }
check: lint types
	$(BIN)/pytest -q -m quick
# What mostly waits runs side by side, what must have the machine for itself after it.
test: lint types
	$(BIN)/pytest --numprocesses $(SIDE_BY_SIDE) --dist loadfile -m "not slow and not alone and not patient"
	$(BIN)/pytest --numprocesses 2 --dist loadgroup -m "patient and not slow"
	$(BIN)/pytest -m "alone and not slow"
test-slow: install
	$(BIN)/pytest -m slow
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
types: install
	$(BIN)/mypy
proto:
	protos/generate.sh
buf: $(BUF)
	$(BUF) lint
	$(BUF) breaking --against '.git#ref=$(AGAINST)'
$(BUF):
	npm install --silent --no-audit --no-fund --no-save --prefix .tools/buf @bufbuild/buf@1.75.0
workers: install
	PYTHON="$(abspath $(BIN)/python)" examples/workers/build.sh
bench: install workers
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m bench
