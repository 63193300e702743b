"""Models by name, with any normalisation, activation function and initialisation."""

__all__: list[str] = []
