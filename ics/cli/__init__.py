"""The command `ics`. Nothing heavy is imported before a command needs it, so that `ics --help` answers at once.

So the modules here import torch, pandas and the like inside functions, and under TYPE_CHECKING for annotations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from ics import __version__
from ics.cli.bench import bench
from ics.cli.claims import app as claims
from ics.cli.console import run_command
from ics.cli.models import layers, recipes
from ics.cli.runs import compare, report, schema, show
from ics.cli.training import demo, train

__all__ = ["app", "main"]

EXAMPLES: Mapping[Callable[..., None], str] = {
    demo: "ics demo",
    train: "ics train vgg11-cifar --data images:photos.tar.xz --norm batch --seeds 2 --steps 2000 --to runs/vgg-bn",
    recipes: "ics recipes",
    layers: "ics layers my_nets:build --input-shape 1,28,28",
    show: "ics show runs/vgg-bn-0 --table gradient_shift --columns step,layer,shift_cosine --where 'step>=100'",
    report: "ics report 'runs/vgg-*' --to vgg.html",
    compare: "ics compare 'runs/vgg-standard-*' 'runs/vgg-bn-*'",
    bench: "ics bench resnet18 --norm batch --batch 128 -o bench.png --csv bench.csv",
    schema: "ics schema gradient_line",
}
"""Every command, with the example that ends its help."""

# Without pretty exceptions, as `run_command` turns mistakes into sentences and leaves other tracebacks as they are.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False)
for _command, _example in EXAMPLES.items():
    app.command(epilog=f"Example: {_example}")(_command)
app.add_typer(claims, name="claims")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ics` and return its exit status: 0, 2 after a mistake (one sentence on stderr), 130 if interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Not standalone: typer would print errors in its own way and end the process, with `main` never returning.
    return run_command(lambda: app(given or ["--help"], prog_name="ics", standalone_mode=False))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ics {__version__}")
        raise typer.Exit


@app.callback()
def _ics(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Measure internal covariate shift and the optimisation landscape of any PyTorch model while it trains."""
