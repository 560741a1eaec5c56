"""`asymkv-gguf bench`: stock llama.cpp, our libllama and the merged cache, measured side by side."""
