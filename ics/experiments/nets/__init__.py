"""Models by name, with any normalisation, activation and initialisation."""

__all__: list[str] = []
