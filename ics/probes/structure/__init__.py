"""What a model is: its names, its layers in the order of execution, and what each module and axis means."""

__all__: list[str] = []
