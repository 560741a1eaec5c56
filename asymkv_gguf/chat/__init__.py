"""A conversation with a model: what was said, as text and as tokens, and a terminal to hold it in."""
