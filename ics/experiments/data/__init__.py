"""Data sets as tensors in memory, by name, from folders and archives of images, or downloaded on request."""

__all__: list[str] = []
