# Aliases; run.py holds what they do. PYTHON=python3.12 make check
PYTHON ?= python3
OUT ?= out/demo
.PHONY: check test slow demo report

check: test      ## ruff, mypy, lint-imports, pytest

test:
	$(PYTHON) run.py test

slow:            ## the same with the long trainings
	$(PYTHON) run.py test --slow

demo:            ## the game on the embedded digits, through to a report
	$(PYTHON) run.py demo --out $(OUT)

report:          ## the report of a finished run folder again, from its records: make report OUT=results
	.venv/bin/python -m sparring report $(OUT) --out $(OUT)/report.html
