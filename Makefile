# make install   an environment in .venv with everything but the benchmark's peers
# make bench     images per second beside the peers
# make test      checks and the tests            make test-all   and those that take minutes, as CI does
# make docs      the documentation as a site, in build/site; dead links fail
# make faults    counts what was done to real processes and files, and survived, into the README
# make soak      the same ten times as often
# make demo      scenes → shards → training → scores → runs/demo/report.html
# make hero      the same on more and larger streets, for an hour: the README's picture
# make pictures  the documents' pictures, from demo, hero and the results (needs a browser)
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PEERS := .venv/peers

.PHONY: install test test-all lint docs faults soak bench demo hero pictures clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is no Python 3.10 or newer with venv; name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	@touch $@

lint: $(PEERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# As many at once as there are cores; whoever has nothing left takes over from the other.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: lint
	FASTSEG_FAULTS=few $(PYTEST) -m "not slow"

test-all: lint docs
	$(PYTEST)

docs: $(PEERS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --config-file tools/docs/mkdocs.yml

FAULTS := bench/results/faults.json
HISTORIES := tests/faults/test_histories.py

faults: $(PEERS)
	rm -f $(FAULTS)
	FASTSEG_HISTORIES=2000 FASTSEG_FAULTS_JSON=$(FAULTS) $(PYTEST) $(HISTORIES)
	FASTSEG_FAULTS_JSON=$(FAULTS) $(PYTEST) tests/faults --ignore $(HISTORIES)
	$(BIN)/python -m bench.docs

soak: $(PEERS)
	FASTSEG_SOAK=1 FASTSEG_HISTORIES=2000 $(PYTEST) tests/faults

bench: $(PEERS)
	$(BIN)/python bench/throughput.py

data/demo/done: | $(INSTALLED)
	$(BIN)/python tools/make_scenes.py --out data/demo --train 48 --val 12 --size 512x256 --seed 1
	@touch $@

demo: data/demo/done
	$(BIN)/python tools/make_shards.py data/demo --out shards/demo
	rm -rf runs/demo
	$(BIN)/torchrun fastseg/train.py --gpus 1 --recipe demo
	$(BIN)/fastseg-eval runs/demo/checkpoints/best.pt
	@echo "the report: runs/demo/report.html"

data/hero/done: | $(INSTALLED)
	$(BIN)/python tools/make_scenes.py --out data/hero --train 264 --val 40 --size 1024x512 --seed 3
	@touch $@

hero: data/hero/done
	$(BIN)/fastseg-pack data/hero --out shards/hero
	$(BIN)/fastseg-train --recipe demo --shards shards/hero --name hero --gpus 1 \
		--data.crop 256 384 --data.batch 8 --optim.epochs 60 --optim.ema 0.99 --eval-every 10

pictures: $(PEERS)
	$(BIN)/python -m bench.docs.pictures
	$(BIN)/python -m bench.docs.steps

clean:
	rm -rf .venv build *.egg-info data/demo shards/demo runs/demo data/hero shards/hero runs/hero
