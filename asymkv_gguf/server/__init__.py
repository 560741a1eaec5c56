"""The HTTP server of `asymkv-gguf serve`: OpenAI's routes over several merged caches. Needs the extra `server`."""
