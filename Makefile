# Two commands do everything on a fresh machine with Python >= 3.11 and make:
#   make demo    install, then prepare a simulated funnel, train five models, compare them, write report.html
#   make test    install, then format, lint, types and all tests
# One more shows production: make demo-serving (train, export, serve, a simulated week over HTTP, A/B analysis).
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo
SERVED ?= build/demo-serving
SERVED_ROWS ?= 200000
SERVED_USERS ?= 2000

.PHONY: demo demo-serving test install bench bench-prepare bench-peers clean

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

demo-serving: install
	@echo "== 1/4 prepare: $(SERVED_ROWS) simulated rows, 3 steps"
	@test -f $(SERVED)/data/manifest.json || $(BIN)/funnelcast prepare synthetic $(SERVED)/data \
	    --set rows=$(SERVED_ROWS) --set 'rates=[0.2, 0.3, 0.4]'
	@echo "== 2/4 train: logistic is control, esmm is treatment (runs that are complete in $(SERVED) are kept)"
	@test -f $(SERVED)/run-control/manifest.json || \
	    $(BIN)/funnelcast train experiments/serving/logistic.toml --data $(SERVED)/data --out $(SERVED)/run-control
	@test -f $(SERVED)/run-treatment/manifest.json || \
	    $(BIN)/funnelcast train experiments/synthetic/esmm.toml --data $(SERVED)/data --out $(SERVED)/run-treatment
	@echo "== 3/4 export: two bundles"
	@for name in control treatment; do \
	    test -f $(SERVED)/$$name/manifest.json || \
	        $(BIN)/funnelcast export $(SERVED)/run-$$name $(SERVED)/$$name --to onnx || exit 1; \
	done
	@echo "== 4/4 serve both, a week of visits over HTTP, abtest analyse"
	@$(BIN)/python -m benchmarks.served_week $(SERVED) --users $(SERVED_USERS)

test: install
	@scripts/check $(BIN)

bench: install
	@$(BIN)/python -m benchmarks

bench-prepare: install
	@$(BIN)/python -m benchmarks.prepare --threads 2 --json build/bench-prepare.json

bench-peers: install
	@$(BIN)/python -m benchmarks.peers --json build/bench-peers.json

clean:
	rm -rf build .venv
