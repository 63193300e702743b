"""One measured step: what is kept before it, attached during it, and evaluated after it."""

__all__: list[str] = []
