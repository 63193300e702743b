"""Ordinary training, written as a user would: models, data, recipes, and a loop with a recorder attached."""

from ics.experiments.config import RunConfig
from ics.experiments.data import Batch, Data, Examples, Progress
from ics.experiments.datasets import load_data
from ics.experiments.downloads import DOWNLOADS, cache_folder
from ics.experiments.evaluation import accuracy, evaluate
from ics.experiments.experiment import Experiment, prepare
from ics.experiments.images import load_images
from ics.experiments.loading import load_model
from ics.experiments.losses import LOSSES
from ics.experiments.models import MODELS
from ics.experiments.optimizers import OPTIMIZERS
from ics.experiments.recipes import LABELS, RECIPES, demo_configs, recipe
from ics.experiments.train import fit, train

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
