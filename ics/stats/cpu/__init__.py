"""All statistics of a CPU tensor in one read of memory, compiled by numba. Imported only when first used."""

__all__: list[str] = []
