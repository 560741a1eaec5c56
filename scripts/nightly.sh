#!/usr/bin/env bash
# What is too long for every commit: every architecture, a hundred thousand operations against the model of a cache,
# configurations that no run before has seen, and all native tests under sanitizers.
# In an environment where asymkv-gguf and its test extra are installed:
#
#     scripts/nightly.sh

set -euo pipefail
cd "$(dirname "$0")/.."

python tools/write_models_docs.py --check
python tools/state_machine.py --operations 100000 --seed "${SEED:-$(date +%j)}"
ASYMKV_FUZZ_EXAMPLES=20000 python -m pytest -q tests/test_config_fuzz.py

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python - "$work" <<'END'
import sys
from pathlib import Path

sys.path.insert(0, "tests")
import tiny_models

for name in ("gemma2", "lfm2"):  # caches of several parts: sliding windows, recurrent layers
    tiny_models.MERGED[name](Path(sys.argv[1]) / f"{name}.gguf")
END
BUILD="$work/plan" scripts/sanitize.sh address
BUILD="$work/plan-thread" scripts/sanitize.sh thread
BUILD="$work/capi" scripts/sanitize.sh capi "$work/gemma2.gguf" "$work/lfm2.gguf"
BUILD="$work/capi-thread" scripts/sanitize.sh capi-thread
BUILD="$work/plan" scripts/sanitize.sh fuzz 600
for model in asymkv_gguf/data/recall.gguf "$work/gemma2.gguf" "$work/lfm2.gguf"; do
    BUILD="$work/capi" scripts/sanitize.sh fuzz-state 600 "$model"
done
