"""Run as a script, in a process without asymkv_gguf: logits of llama-cpp-python's own libllama.

    python stock_logits.py CASES.json OUT.npz

A case is {name, model, tokens, n_batch, settings}.
"""

from __future__ import annotations

import json
import sys

import llama_cpp
import numpy as np
from runs import read


def main(cases_path: str, out_path: str) -> None:
    results = {}
    with open(cases_path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        llm = llama_cpp.Llama(case["model"], **case["settings"])
        results[case["name"]] = read(llm, case["tokens"], case["n_batch"])
        llm.close()
    assert "asymkv_gguf" not in sys.modules
    np.savez(out_path, allow_pickle=False, **results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
