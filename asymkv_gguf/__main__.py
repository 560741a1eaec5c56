"""`python -m asymkv_gguf`: the same as the command `asymkv-gguf`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
