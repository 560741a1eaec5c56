"""Make one Metal file of ours and the headers of ours that it includes, as ggml-metal wants its kernels.

    metal_kernels.py --include DIR --to FILE KERNELS

Each quoted header that lies in DIR is put in place of its first #include; all other includes stay.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--include", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("kernels", type=Path)
    options = parser.parse_args()
    try:
        text = merged(options.kernels.read_text(encoding="utf-8"), options.include, set())
        if not options.to.is_file() or options.to.read_text(encoding="utf-8") != text:
            options.to.write_text(text, encoding="utf-8")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def merged(text: str, directory: Path, seen: set[str]) -> str:
    def header(found: re.Match[str]) -> str:
        name = found[1]
        if not (directory / name).is_file():
            return found[0]
        if name in seen:
            return ""
        seen.add(name)
        return merged((directory / name).read_text(encoding="utf-8").replace("#pragma once\n", ""), directory, seen)

    return INCLUDE.sub(header, text)


if __name__ == "__main__":
    sys.exit(main())
