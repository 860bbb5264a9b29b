#!/usr/bin/env bash
# The reproduction of the paper on MNIST: eight regimes and the sweeps, every measurement, the ledger, the report.
# It takes hours on a few cores. It may be stopped at any time (Ctrl-C saves); the same command goes on.
#
#   bash runs/paper.sh                       three seeds, into results/paper-mnist
#   SEEDS=10 OUT=out/ten bash runs/paper.sh  more seeds, another folder
#   bash runs/paper.sh --workers 4           further arguments go to `sparring reproduce`
#
# MNIST is looked for under --data-root, $SPARRING_DATA and the user's cache, and downloaded if it is nowhere.
# What is committed of results/paper-mnist are records and figures, not weights and checkpoints.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
SEEDS="${SEEDS:-3}"
OUT="${OUT:-results/paper-mnist}"
if ! command -v "$PYTHON" >/dev/null; then
    echo "runs/paper.sh: no $PYTHON; 'python3 run.py demo' makes it" >&2
    exit 2
fi

# Train, measure, gather. One thread a run, so that the number of workers cannot change the numbers.
"$PYTHON" -m sparring reproduce --data mnist --seeds "$SEEDS" --out "$OUT" --no-report "$@"

# The page and the figures, from the records alone.
case " $* " in *" --dry-run "*) exit 0 ;; esac
"$PYTHON" -m sparring report "$OUT"
