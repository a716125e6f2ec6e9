# Everything goes through .venv, whatever environment is active.
PYTHON ?= python3
VENV := .venv
# exact versions where the committed results were made, ranges elsewhere
RANGES := requirements.txt requirements-dev.txt
REQUIREMENTS ?= $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),requirements.lock,$(RANGES))
WANTED := $(addprefix --requirement ,$(REQUIREMENTS))
# uv takes a third of pip's time; pip is asked where uv finds nothing, as it does not read pip's settings
UV := uv==0.13.9
PIP := $(VENV)/bin/python -m pip install --quiet
# processes that share the tests
WORKERS ?= 2
TEST := OMP_NUM_THREADS=1 python -m pytest -q -n $(WORKERS) --dist loadfile
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro stages test test-slow ui table experiments verdict bench lint install

repro: install
	dvc repro
	@python -m pdiff.tracking.changed

# the same stages one after the other, all of them: no DVC, no MLflow, and the `python` that is active
stages:
	sh -exc "$$(sed -n 's/^    cmd: //p' dvc.yaml)"

test: install
	$(TEST) -m "not slow and not nightly"

test-slow: install
	$(TEST) -m "slow and not nightly"

ui: install
	python -m pdiff.tracking ui

# make table T=3c             a table or figure of the paper; ARGS="--data digits --recipe quick --dry-run"
# make table                  all experiments that were run; ARGS=--markdown or ARGS=--csv
table: install
ifdef T
	python -m pdiff.paper $(T) $(ARGS)
else
	@python -m pdiff.tracking compare $(ARGS)
endif

# DVC's own view of its experiments: the numbers that metrics/ has, and the parameters that changed
KEPT := (accuracy\.(generated_mean|original_mean|ensemble)|similarity\.generated_(max_mean|within)
KEPT := $(KEPT)|fit\.(r2|variance_(least|most)))$$
LEFT := (?!Exp)[^.]+$$|.*/|.*txt$$|(accuracy|similarity|fit|latent_fit)\.
experiments: install
	@dvc exp show --only-changed --precision 4 --keep '$(KEPT)' --drop '$(LEFT)' $(ARGS)

# the paper's claims over whole pipelines -> results/verdict.md; runs what is missing
# make verdict ARGS="--data digits --recipe quick --seeds 0,1,2,3,4 --whole"
# make verdict ARGS="--data cifar10_images -S data.root=/images --recipe quick --seeds 0,1,2,3,4,5 --whole"
verdict: install
	python -m pdiff.paper verdict $(ARGS)

# ours against the plain way, within half an hour on two idle cores; rewrites docs/performance.md
bench: install
	python -m benchmarks

lint: install
	ruff check .
	ruff format --check .

install: $(VENV)/installed

$(VENV)/installed: $(REQUIREMENTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(UV)
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python $(WANTED) || $(PIP) $(WANTED)
	$(PIP) --no-deps --editable .
	touch $@
