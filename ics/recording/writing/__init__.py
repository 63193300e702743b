"""From rows on the device to Parquet: buffer, copy to the host, columns, and the thread that writes."""

__all__: list[str] = []
