"""From rows on the device to Parquet: the buffer, the copy to the host, columns, and the writing thread."""

__all__: list[str] = []
