"""RULER's task types (arXiv 2404.06654), generated here: any length, any seed, nothing to download."""
