.PHONY: install test quickstart doctor reference docs

install:
	bash scripts/install.sh

test:
	bash scripts/test.sh

quickstart:
	bash scripts/quickstart.sh

doctor:
	.venv/bin/gream doctor

reference: # the pages of docs/reference that are made from the code
	.venv/bin/python scripts/reference.py

docs: # a site with search in docs/_build; a warning is an error
	python3 -m venv docs/_build/venv
	docs/_build/venv/bin/python -m pip install --quiet --requirement requirements/docs.txt
	docs/_build/venv/bin/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
