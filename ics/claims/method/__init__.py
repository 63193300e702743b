"""How a claim is tested and judged: what is run, which effects are estimated, and the rule that decides."""

__all__: list[str] = []
