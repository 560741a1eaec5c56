"""The command `asymkv-gguf`."""

try:
    from .main import main
except ImportError as error:  # a broken installation
    from .broken import main_after

    main = main_after(error)  # type: ignore[assignment]
except KeyboardInterrupt:  # the packages take a moment
    raise SystemExit(130) from None

__all__ = ["main"]
