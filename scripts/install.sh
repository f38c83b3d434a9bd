#!/usr/bin/env bash
# Makes the virtual environment and installs the package; without an NVIDIA GPU it looks for a CPU build of torch first.
#
# PyPI's torch for Linux brings several GB of CUDA. A CPU build is taken wherever pip has been told of one: a folder of
# wheels (PIP_FIND_LINKS) or an index (PIP_EXTRA_INDEX_URL, see README). Only when there is none does PyPI's build come.
set -euo pipefail

PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
TORCH_MINIMUM=2.13.0

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "shridhar_ft needs Python 3.11 or newer; $("$PYTHON" --version) was found. Try: make setup PYTHON=python3.11" >&2
  exit 2
fi
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

if "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
  echo "torch is installed already"
elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
  echo "an NVIDIA GPU is here: torch with CUDA"
  pip install --quiet "torch>=$TORCH_MINIMUM"
elif pip install --quiet "torch==$TORCH_MINIMUM+cpu" 2>/dev/null; then
  echo "no NVIDIA GPU: the CPU build of torch $TORCH_MINIMUM"
else
  echo "no NVIDIA GPU, and pip knows no CPU build of torch $TORCH_MINIMUM: taking PyPI's (on Linux several GB)." >&2
  echo "To avoid that, name an index of CPU builds in PIP_EXTRA_INDEX_URL and run this again." >&2
  pip install --quiet "torch>=$TORCH_MINIMUM"
fi
pip install --quiet --editable ".[dev]"
"$VENV/bin/python" -c 'import shridhar_ft, torch; print(f"shridhar_ft {shridhar_ft.__version__} with torch {torch.__version__}")'
