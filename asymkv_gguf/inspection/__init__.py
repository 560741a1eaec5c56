"""`asymkv-gguf inspect`: how alike a model's adjacent keys and values are, and what a compression makes of them."""
