"""The patched libllama: finding and loading it (`loader`), and calling its merged cache (`api`)."""
