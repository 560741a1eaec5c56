#!/usr/bin/env bash
# What is too long for every commit: every architecture, a hundred thousand operations against the model of a cache, and
# configurations that no run before has seen.
# In an environment where asymkv-gguf and its test extra are installed:
#
#     scripts/nightly.sh

set -euo pipefail
cd "$(dirname "$0")/.."

python tools/write_models_docs.py --check
python tools/state_machine.py --operations 100000 --seed "${SEED:-$(date +%j)}"
ASYMKV_FUZZ_EXAMPLES=20000 python -m pytest -q tests/test_config_fuzz.py
