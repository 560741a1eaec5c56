"""Run as a script, with a libllama and in an environment of the caller's choice: logits before and after a compression.

    python cache_logits.py CASES.json OUT.npz

A case is {name, model, tokens, keep, batches, asymkv, settings}: `tokens` are read in batches of settings.n_batch, the cache
is compressed to `keep` slots, and `batches` are read from what is left. Without asymkv (null) nothing is compressed. The result
has NAME/before and NAME/after, logits after each batch, and NAME/stats: whether attention was native, and merges.
"""

from __future__ import annotations

import json
import sys

from asymkv_gguf import Llama

# the following import llama_cpp, which would load its own libllama
# isort: split
import numpy as np
from runs import last_logits, read


def main(cases_path: str, out_path: str) -> None:
    results: dict[str, np.ndarray] = {}
    with open(cases_path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        name = case["name"]
        llm = Llama(case["model"], asymkv=case["asymkv"], **case["settings"])
        results[f"{name}/before"] = read(llm, case["tokens"], case["settings"]["n_batch"])
        if case["asymkv"] is not None:
            llm.asymkv_compress(case["keep"])
            after = []
            for batch in case["batches"]:
                llm.eval(batch)
                after.append(last_logits(llm))
            stats = llm.asymkv_stats()
            results[f"{name}/after"] = np.array(after)
            results[f"{name}/stats"] = np.array([stats.native_attention, stats.merges])
        llm.close()
    np.savez(out_path, allow_pickle=False, **results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
