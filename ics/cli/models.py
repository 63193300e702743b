"""The commands `recipes` and `layers`, which show what can be trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ics.cli.choices import parse_shape
from ics.cli.console import print_frame
from ics.errors import IcsError, UsageError


class Grouping(StrEnum):
    """Which modules make up a layer."""

    paper = "paper"
    leaf = "leaf"


_SHAPES = {"mlp": "1,8,8", "deep_linear": "10"}
_USUAL_SHAPE = "3,32,32"


def recipes() -> None:
    """List the experiments that `ics train` knows, with the setting that each reproduces."""
    import inspect
    import textwrap

    from ics.experiments import RECIPES

    for name, make in RECIPES.items():
        config = make()
        size = "all" if config.batch_size is None else config.batch_size
        setting = f"{config.model} on {config.data}, {config.steps} steps of batch {size}, lr {config.learning_rate:g}"
        typer.echo(f"{typer.style(name, bold=True)}  {setting}")
        typer.echo(textwrap.indent(inspect.getdoc(make) or "", "    ") + "\n")


def layers(
    model: Annotated[str, typer.Argument(help="A model's name (mlp, vgg11, ...), or package.module:function.")],
    norm: Annotated[
        str,
        typer.Option(help="Normalisation: none, batch, layer, l2, ... (docs/normalisations.md)."),
    ] = "none",
    input_shape: Annotated[
        str | None, typer.Option(help="Shape of one input, as 3,32,32 (default: what the model is made for).")
    ] = None,
    grouping: Annotated[
        Grouping,
        typer.Option(help="paper: a normalisation belongs to the layer in front; leaf: it is a layer of its own."),
    ] = Grouping.paper,
) -> None:
    """List a model's layers in the order in which they run, as they are named in tables and by --layers."""
    import pandas as pd
    import torch

    from ics.experiments import load_model
    from ics.probes import find_layers

    shape = parse_shape(input_shape or _SHAPES.get(model, _USUAL_SHAPE))
    net = load_model(model, input_shape=shape, norm=norm)
    inputs = torch.zeros(2, *shape)  # two, as BatchNorm refuses to train on one value per channel
    try:
        with torch.no_grad():
            found = find_layers(net, lambda: net(inputs), grouping=grouping.value)
    except IcsError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{model} cannot take inputs of shape {(2, *shape)}: {reason}; type --input-shape") from error
    rows = [
        {
            "index": layer.index,
            "layer": layer.name,
            "kind": layer.kind,
            "shape": "x".join(map(str, layer.shape)),
            "parameters": f"{layer.num_parameters:,}",
            "modules": " + ".join(layer.modules),
        }
        for layer in found
    ]
    print_frame(pd.DataFrame(rows))
    typer.echo(f"{len(found)} layers, {sum(layer.num_parameters for layer in found):,} parameters")
