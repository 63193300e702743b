"""From a configuration to a trained, recorded run."""

__all__: list[str] = []
