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
