# Two commands do everything on a fresh machine with Python >= 3.11 and make:
#   make demo    install, then prepare a simulated funnel, train five models, compare them, write report.html
#   make test    install, then format, lint, types and the tests; TESTS=all adds the slow ones
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo
TESTS ?= fast

.PHONY: demo test install bench bench-prepare bench-peers clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "== install into .venv (pinned by constraints.txt)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install
	@echo "== 1/2 prepare: 200,000 simulated rows, 3 steps"
	@test -f $(DEMO)/data/manifest.json || $(BIN)/funnelcast prepare synthetic $(DEMO)/data \
	    --set rows=200000 --set 'rates=[0.2, 0.3, 0.4]'
	@echo "== 2/2 compare: five models, one seed (runs that are complete in $(DEMO) are kept)"
	@$(BIN)/funnelcast compare experiments/synthetic/*.toml --data $(DEMO)/data --out $(DEMO)/comparison --seeds 1 --jobs 2

test: install
	@scripts/check $(BIN) $(TESTS)

bench: install
	@$(BIN)/python -m benchmarks

bench-prepare: install
	@$(BIN)/python -m benchmarks.prepare --threads 2 --json build/bench-prepare.json

bench-peers: install
	@$(BIN)/python -m benchmarks.peers --json build/bench-peers.json

clean:
	rm -rf build .venv
