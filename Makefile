# make quickstart   environment, installation, then the whole chain on real pictures, on a CPU in minutes
# make test         environment, installation, then lint, types, import rules and tests

PYTHON ?= python3
BIN := .venv/bin
PLAIN := .venv/installed
STAMP := .venv/installed-with-tests
TREE := build/tree
PARTS := data tokenizer generator training evaluation cli

.PHONY: quickstart test lint types imports unit slow format clean FORCE

quickstart: $(PLAIN)
	$(BIN)/svq quickstart

test: lint types imports unit

$(PLAIN): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(STAMP): $(PLAIN)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	# For the test against mxnet's RecordIO. Alone, for mxnet asks for NumPy 1, of which its RecordIO has no need;
	# its library needs one of Debian's that compilers bring along.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps mxnet==1.9.1
	ldconfig -p | grep -q libquadmath.so.0 || { apt-get update -q && apt-get install -qy libgomp1 libquadmath0; }
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checker and import-linter follow files, not package-dir: show them the package as it is when installed.
$(TREE): $(STAMP) FORCE
	rm -rf $(TREE) && mkdir -p $(TREE)/svq
	ln -s $(CURDIR)/svq/* $(addprefix $(CURDIR)/,$(PARTS)) $(TREE)/svq/

types: $(TREE)
	cd $(TREE) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p svq | tee mypy.txt
	# All files, not just one of them:
	grep -q "no issues found in $$(ls svq/*.py $(addsuffix /*.py,$(PARTS)) | wc -l) source files" $(TREE)/mypy.txt

imports: $(TREE)
	cd $(TREE) && $(CURDIR)/$(BIN)/lint-imports $(CURDIR)/pyproject.toml --no-cache

unit: $(STAMP)
	# A process for each of two cores; a file's tests stay together, for they share what took long to make. In the order
	# of their names: by number of tests, the longest single one would come last, when the other core has nothing to do.
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations=12

slow: $(STAMP)
	$(BIN)/pytest -m slow

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
