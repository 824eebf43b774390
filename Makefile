.PHONY: install test quickstart doctor

install:
	bash scripts/install.sh

test:
	bash scripts/test.sh

quickstart:
	bash scripts/quickstart.sh

doctor:
	.venv/bin/gream doctor
