"""LongBench (arXiv 2308.14508): its files, the user's prompt formats, and its metrics."""
