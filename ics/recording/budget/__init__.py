"""A limit on the share of training time that recording takes: the rule, the costs of instruments, the stopwatch."""

__all__: list[str] = []
