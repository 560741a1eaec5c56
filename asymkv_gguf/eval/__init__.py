"""`asymkv-gguf eval`: what a smaller cache keeps, measured against the full one on the same texts."""
