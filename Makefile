# Everything a developer runs. Needs Python 3.11 and make; the rest is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.installed
export HF_HUB_OFFLINE ?= 1
unexport PYTHONDONTWRITEBYTECODE  # else each of a hundred processes compiles torch and transformers again: 7 s of CPU

.PHONY: qlora method-matrix method-families compare-trl bench-methods test-admission k8s-demo unit curves faults clusters quick golden wheel reference gpu scaling chaos-store differential models bench-fused bench-tune bench-grid chaos bench-load bench-export bench-evaluate bench-save bench-stall bench-recovery parity-full bench-train bench-parity bench-packing bench-gsm8k bench-data bench-memory bench-kills bench-loss demo test check lint types format install constraints clean

demo: $(READY)            ## train a small model end to end: data, training, evaluation, export, answers
	$(BIN)/python jobs/demo.py

UNIT := tests/unit tests/contract
CURVES := tests/parity tests/golden

unit: $(READY)            ## the tests that need no cluster, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile $(UNIT)

curves: $(READY)          ## the tests that compare losses; they step back for those whose time is measured
	nice -n 5 $(BIN)/python -m pytest -n 2 --dist loadfile $(CURVES)

faults: $(READY)          ## the tests that break things
	$(BIN)/python -m pytest tests/faults

clusters: $(READY)        ## all others: those that train on a local Ray
	$(BIN)/python -m pytest $(addprefix --ignore=,$(UNIT) $(CURVES) tests/faults)

quick: lint types unit    ## what to run before every commit

test: $(READY)            ## all tests, whatever fails; the lanes after the first mostly wait, so two of them go side by side
	failed=0; $(MAKE) unit || failed=1; $(MAKE) --keep-going --jobs=2 faults clusters curves || failed=1; exit $$failed

parity-full: $(READY)     ## the rest of the matrix: what CI has no time for
	$(BIN)/python -m pytest -m full

qlora: $(READY)           ## bases in 4 bits, which make check leaves out: bitsandbytes slows each import of peft by a second
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/qlora bitsandbytes==0.50.2
	PYTHONPATH=build/qlora:$$PYTHONPATH $(BIN)/python -m pytest -m "full or not full" tests/unit/model/methods/test_four_bit.py \
		tests/parity/test_method_matrix.py tests/parity/test_methods.py tests/parity/test_shares.py -k "four_bit or nf4"

method-matrix: $(READY)   ## methods and objectives: which of their cells CI tries, which parity-full
	$(BIN)/python benchmarks/method_matrix.py

method-families: $(READY) ## every method on 31 model families against plain transformers and peft: a table
	$(BIN)/python benchmarks/method_matrix.py families $(ARGS)

golden: $(READY)          ## losses of 21 cells, bit for bit as recorded; make golden ARGS=--record records them
	$(BIN)/python -m pytest tests/golden -m "full or not full" $(ARGS)

differential: $(READY)    ## tokens and masks of 22 pairs of template and tokenizer against transformers, 320 records each
	$(BIN)/python -m pytest -m full tests/unit/data/text/test_against_transformers.py

check: lint types test    ## what CI runs: format, lint, types, layer contract, tests

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)          ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[dev]'
	touch $(READY)

constraints: $(READY)     ## write the installed versions into constraints.txt
	(head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//') > constraints.new
	mv constraints.new constraints.txt

bench-parity: $(READY)    ## how far every ZeRO stage, worker count and micro-batch is from the first
	$(BIN)/python benchmarks/parity_table.py

bench-packing: $(READY)   ## packed rows over the bound, and how long replicas would wait for each other
	$(BIN)/python benchmarks/packing_balance.py $(DATA)

bench-gsm8k: $(READY)     ## the real-data run: make bench-gsm8k DATA=gsm8k_train.jsonl
	$(BIN)/python benchmarks/held_out_windows.py $(DATA)

bench-data: $(READY)      ## rate of the data pipeline: make bench-data DATA=gsm8k_train.jsonl
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/peers trl==1.16.0 datasets==5.2.0 dill==0.4.1 \
		multiprocess==0.70.19 xxhash accelerate
	$(BIN)/python benchmarks/data_pipeline.py $(DATA) --peers build/peers

bench-train: $(READY)     ## training speed against TRL, transformers and a bare loop: make bench-train DATA=gsm8k_train.jsonl
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/peers trl==1.16.0 datasets==5.2.0 dill==0.4.1 \
		multiprocess==0.70.19 xxhash accelerate
	$(BIN)/python benchmarks/train_speed.py $(DATA) --peers build/peers

compare-trl: $(READY)     ## losses and gradients of TRL and of raysft on the batches of TRL's trainers
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/peers trl==1.16.0 datasets==5.2.0 dill==0.4.1 \
		multiprocess==0.70.19 xxhash accelerate
	$(BIN)/python benchmarks/trl_losses.py --peers build/peers

bench-methods: $(READY)   ## methods, objectives, a teacher on one small base; QUESTIONS are pre-trained on, UNSEEN are not
	$(BIN)/python jobs/pretrain.py --out build/base --text $(TEXT) --questions $(QUESTIONS)
	$(BIN)/python benchmarks/methods.py --base build/base --alpaca $(ALPACA)
	$(BIN)/python benchmarks/preferences.py --base build/base --alpaca $(ALPACA) --pairs $(PAIRS)
	$(BIN)/python benchmarks/distillation.py build/base/runs/base/export/merged build/base/tokenizer $(UNSEEN)
	$(BIN)/python benchmarks/critique.py --base build/base

bench-memory: $(READY)    ## memory of prepare and of a stream for ten times the data: make bench-memory DATA=...
	$(BIN)/python benchmarks/data_memory.py $(DATA) --mode prepared
	$(BIN)/python benchmarks/data_memory.py $(DATA) --mode stream

bench-kills: $(READY)     ## exactly once over five kills, prepared and streamed
	$(BIN)/python benchmarks/data_kills.py

bench-loss: $(READY)      ## time and memory of the loss and of attention within segments
	$(BIN)/python benchmarks/loss_memory.py
	$(BIN)/python benchmarks/segment_attention.py

gpu: $(READY)             ## what only a GPU can tell, in minutes; tests/gpu/pack.sh makes the wheels for a bare machine
	$(BIN)/python tests/gpu/run.py $(ARGS)

chaos: $(READY)           ## the fault matrix and kills inside a save; a soak too: make chaos ARGS="--minutes 30 --seed 1"
	$(BIN)/python benchmarks/chaos.py $(ARGS)

scaling: $(READY)         ## runs and searches on a cluster that scales from nothing, and back: both of Ray's autoscalers
	$(BIN)/python benchmarks/scaling.py $(ARGS)

test-admission: $(READY)  ## manifests before an API server of CRDs, built from Debian's packages into build/admission (once: 3 to 35 minutes)
	bash tests/admission/build.sh build/admission
	BUILD=$(CURDIR)/build/admission $(BIN)/python -m pytest -m full tests/admission

k8s-demo: $(READY)        ## a run on nodes of its own (namespaces, as root) loses two nodes, a link and the head, in minutes: a table
	$(BIN)/python benchmarks/k8s_demo.py

chaos-store: $(READY)     ## every file of a finished token store, damaged in every way, and prepared again
	$(BIN)/python -m pytest -m full tests/unit/data/store/test_store_damage.py

bench-load: $(READY)      ## memory and bytes read of each rank while a model is loaded, over its share
	$(BIN)/python benchmarks/load_memory.py $(ARGS)

bench-save: $(READY)      ## time, memory and bytes of a save and of a resume, rank by rank
	$(BIN)/python benchmarks/save_resume.py --layers 4
	$(BIN)/python benchmarks/save_resume.py --layers 2 --hidden 512 --only grown

bench-export: $(READY)    ## memory of an export and of a model that is evaluated, over the whole model
	$(BIN)/python benchmarks/export_memory.py $(ARGS)

bench-evaluate: $(READY)  ## answers and losses of a model larger than the memory of its process
	$(BIN)/python benchmarks/evaluate_large.py $(ARGS)

bench-stall: $(READY)     ## how long steps wait for a checkpoint behind them, over one that is waited for
	$(BIN)/python benchmarks/checkpoint_stall.py

bench-recovery: $(READY)  ## kill -> next optimizer step, against plain Ray Train
	$(BIN)/python benchmarks/recovery.py

bench-grid: $(READY)      ## ASHA + TPE against a whole grid: make bench-grid DATA=gsm8k_train.jsonl BASE=alpaca.json
	$(BIN)/python benchmarks/tune_grid.py $(DATA) $(BASE)

bench-tune: $(READY)      ## regret of every searcher with every scheduler, replayed on given curves
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tune_replay.py $(CURVES)

bench-fused: $(READY)     ## LoRA trials on one base model against the same trials one after the other
	$(BIN)/python benchmarks/tune_fused.py $(ARGS)

models: $(READY)          ## docs/guide/models.md: what every causal family of transformers does, against plain transformers
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/model_table.py

wheel: $(READY)           ## build the wheel into build/dist, and try what is in it
	rm -rf build/lib build/dist build/wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/dist .
	$(BIN)/pip install --quiet --no-deps --target build/wheel build/dist/*.whl
	cd build && PYTHONPATH=wheel ../$(BIN)/python -c "import raysft; assert raysft.__file__.startswith('$(CURDIR)/build/wheel/')"
	cd build && PYTHONPATH=wheel ../$(BIN)/python -m raysft.cli --version && ls wheel/raysft/py.typed wheel/raysft/data/text/templates/*.jinja
	cd build && PYTHONPATH=wheel ../$(BIN)/python -m raysft.cli schema > schema.json

reference: $(READY)       ## docs/reference/recipe.md from the recipe's schema
	$(BIN)/python -m raysft.recipe.reference docs/reference/recipe.md

clean:                    ## remove what was made here (not .venv)
	rm -rf build storage .pytest_cache .mypy_cache .ruff_cache
