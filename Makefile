# `make demo` on a fresh machine with Python 3.11 or later: makes .venv, installs, compares, writes demo/.

.PHONY: demo test slow lint types doctest docs notebook versions parity clean
.DEFAULT_GOAL := demo

bin := .venv/bin
installed := .venv/.installed
parallel := --numprocesses auto --maxprocesses 4 --dist loadfile

demo: $(installed)
	$(bin)/linft compare --output demo

test: $(installed)
	$(bin)/pytest tests -m "not slow" $(parallel)

# The tests of minutes: the accuracy of every shipped model.
slow: $(installed)
	$(bin)/pytest tests -m slow $(parallel)

lint: $(installed)
	$(bin)/ruff check
	$(bin)/ruff format --check

types: $(installed)
	$(bin)/pyright

doctest: $(installed)
	$(bin)/pytest --doctest-modules linft $(parallel)

# The site, in build/site; what builds it (120 MB) is installed only here.
docs: $(installed)
	bash scripts/install.sh dev,docs
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet

notebook: $(installed)
	$(bin)/pytest --nbmake --nbmake-timeout=600 colab

versions: $(installed)
	$(bin)/nox

# Every architecture at full size against its original in timm or torchvision, on Python 3.11; writes docs/parity.md.
parity: $(installed)
	$(bin)/nox --session jax-0.10 --install-only
	.venvs/jax-0-10/bin/python tests/parity/full.py

# Once, and again when what is to be installed has changed.
$(installed): pyproject.toml $(wildcard constraints/*.txt)
	bash scripts/install.sh
	touch $@

clean:
	rm -rf .venv .venvs build demo linft.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
