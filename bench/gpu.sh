#!/bin/sh
# All that is measured on one GPU, in under 9 minutes, into one JSON: $OUT/gpu.json, and a grid.
# Nothing is installed: Python 3.11 or later with torch, numpy, pillow and safetensors is enough.
#   bench/gpu.sh [--data FOLDER_OR_ARCHIVE] [--minutes M] [--smoke]
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH=src PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m bench.gpu --out "${OUT:-build/gpu}" "$@"
