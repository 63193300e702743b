"""A share of training time that recording may take: the rule, what instruments cost, the stopwatch."""

__all__: list[str] = []
