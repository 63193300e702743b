"""The claims ledger as a page, as Markdown and as figures."""

__all__: list[str] = []
