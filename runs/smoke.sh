#!/usr/bin/env bash
# The whole reproduction in small: one seed on the embedded digits, no network, minutes on a CPU.
# It shows that every part works. Its numbers say nothing about the paper, which is on MNIST.
#
#   bash runs/smoke.sh                  into out/smoke; run again, it goes on or says that it is done
#   bash runs/smoke.sh --dry-run        further arguments go to `sparring reproduce`
#   PYTHON=python3 bash runs/smoke.sh   another interpreter than .venv's
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
if ! command -v "$PYTHON" >/dev/null; then
    echo "runs/smoke.sh: no $PYTHON; 'python3 run.py demo' makes it" >&2
    exit 2
fi

"$PYTHON" -m sparring reproduce --data digits --seeds 1 --out out/smoke "$@"
