"""Several hybrid passes stacked and evaluated as one."""

__all__: list[str] = []
