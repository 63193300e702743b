"""Ordinary training, written as a user would: models, data, recipes, and a loop with a recorder attached."""

from ics.experiments.data.datasets import load_data
from ics.experiments.data.downloads import DOWNLOADS, cache_folder
from ics.experiments.data.examples import Batch, Data, Examples, Progress
from ics.experiments.data.images import load_images
from ics.experiments.nets.loading import load_model
from ics.experiments.nets.models import MODELS
from ics.experiments.recipes import LABELS, RECIPES, demo_configs, recipe
from ics.experiments.training.config import RunConfig
from ics.experiments.training.evaluation import accuracy, evaluate
from ics.experiments.training.experiment import Experiment, prepare
from ics.experiments.training.losses import LOSSES
from ics.experiments.training.optimizers import OPTIMIZERS
from ics.experiments.training.train import fit, train

__all__ = [
    "DOWNLOADS",
    "LABELS",
    "LOSSES",
    "MODELS",
    "OPTIMIZERS",
    "RECIPES",
    "Batch",
    "Data",
    "Examples",
    "Experiment",
    "Progress",
    "RunConfig",
    "accuracy",
    "cache_folder",
    "demo_configs",
    "evaluate",
    "fit",
    "load_data",
    "load_images",
    "load_model",
    "prepare",
    "recipe",
    "train",
]
