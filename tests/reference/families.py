"""Nets of every family that people train, small enough for a pass per layer: what the fast G' is held against.

`FAMILIES` maps a name to how the net is made, the shape of a batch and the loss. Every image-classification family of
torchvision is there, built by its own constructors with fewer channels or blocks where those take them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from tests.reference import own_nets, tricky_nets

CLASSES = 5


@dataclass(frozen=True)
class Family:
    """A net, its batches and its loss.

    Attributes:
        make: returns the net, in the mode it is trained in.
        shape: shape of the inputs, batch first.
        loss_fn: `loss_fn(model, batch)`.
        tokens: whether the inputs are integers below `CLASSES`, not images.
        note: what it is there for.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    loss_fn: Callable[[nn.Module, Any], Tensor]
    tokens: bool = False
    note: str = ""

    def batch(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return inputs and classes, the same ones every time."""
        generator = torch.Generator().manual_seed(3)
        if self.tokens:
            x = torch.randint(0, CLASSES, self.shape, generator=generator)
        else:
            x = torch.randn(self.shape, generator=generator, dtype=torch.float64).to(dtype)
        return x, torch.randint(0, CLASSES, self.shape[:1], generator=generator)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The loss of a classifier."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def with_auxiliary_heads(model: nn.Module, batch: Any) -> Tensor:
    """The loss of GoogLeNet in train mode: the outputs half-way count as well."""
    x, y = batch
    main, *auxiliary = model(x)
    return F.cross_entropy(main, y) + 0.3 * sum(F.cross_entropy(logits, y) for logits in auxiliary)


def narrow_head(make: Callable[..., nn.Module], features: int, **options: Any) -> nn.Module:
    """A VGG or AlexNet with 32 units in the classifier instead of 4096: the constructors have no say in that."""
    model = make(num_classes=CLASSES, **options)
    hidden = (nn.Linear(features, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(inplace=True))
    model.classifier = nn.Sequential(*hidden, nn.Dropout(), nn.Linear(32, CLASSES))
    return model


def efficientnet_v2() -> nn.Module:
    """EfficientNetV2's two kinds of blocks, once or twice each."""
    fused = FusedMBConvConfig(expand_ratio=2, kernel=3, stride=1, input_channels=8, out_channels=8, num_layers=2)
    plain = MBConvConfig(expand_ratio=4, kernel=3, stride=2, input_channels=8, out_channels=16, num_layers=2)
    return models.EfficientNet([fused, plain], dropout=0.2, last_channel=32, num_classes=CLASSES)


def swin_v2() -> nn.Module:
    """Swin v2: cosine attention, positions from a small net of its own."""
    block = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES, **SWIN, **block)


SWIN = {"stochastic_depth_prob": 0.3, "dropout": 0.1, "attention_dropout": 0.1}
VIT = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
MAXVIT = {"input_size": (32, 32), "stem_channels": 8, "partition_size": 2, "block_channels": [8, 16]}
CONVNEXT = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, 48, 2), CNBlockConfig(48, None, 2)]
SMALL = (4, 3, 32, 32)
MIDDLE = (2, 3, 64, 64)

_images = partial(Family, loss_fn=cross_entropy)
_classes = {"num_classes": CLASSES}
_init = {**_classes, "init_weights": True}

TORCHVISION: dict[str, Family] = {
    "alexnet": _images(partial(narrow_head, models.alexnet, 256 * 6 * 6), MIDDLE),
    "vgg11": _images(partial(narrow_head, models.vgg11, 512 * 7 * 7, init_weights=False), SMALL),
    "vgg11_bn": _images(partial(narrow_head, models.vgg11_bn, 512 * 7 * 7, init_weights=False), SMALL),
    "resnet18": _images(partial(models.ResNet, BasicBlock, [2, 2, 2, 2], **_classes), SMALL),
    "resnext": _images(
        partial(models.ResNet, Bottleneck, [1, 2, 2, 1], groups=32, width_per_group=4, **_classes), SMALL
    ),
    "wide_resnet": _images(partial(models.ResNet, Bottleneck, [1, 1, 1, 1], width_per_group=128, **_classes), SMALL),
    "densenet121": _images(partial(models.DenseNet, 8, (6, 12, 24, 16), 16, drop_rate=0.1, **_classes), SMALL),
    "densenet_checkpointed": _images(
        partial(models.DenseNet, 8, (2, 3, 2), 16, memory_efficient=True, **_classes),
        SMALL,
        note="torchvision's own activation checkpointing",
    ),
    "googlenet": Family(partial(models.googlenet, **_init), MIDDLE, with_auxiliary_heads, note="two auxiliary heads"),
    "inception_v3": _images(
        partial(models.inception_v3, aux_logits=False, **_init),
        (2, 3, 75, 75),
        note="without the auxiliary head, which needs 299 pixels",
    ),
    "mobilenet_v2": _images(partial(models.mobilenet_v2, width_mult=0.25, **_classes), SMALL),
    "mobilenet_v3_small": _images(partial(models.mobilenet_v3_small, width_mult=0.5, **_classes), SMALL),
    "mobilenet_v3_large": _images(partial(models.mobilenet_v3_large, width_mult=0.25, **_classes), SMALL),
    "efficientnet_b0": _images(partial(models.efficientnet_b0, **_classes), SMALL, note="stochastic depth, dropout"),
    "efficientnet_v2": _images(efficientnet_v2, SMALL, note="stochastic depth, dropout"),
    "shufflenet_v2": _images(partial(models.shufflenet_v2_x0_5, **_classes), MIDDLE),
    "squeezenet": _images(partial(models.squeezenet1_1, **_classes), MIDDLE),
    "regnet_x_400mf": _images(partial(models.regnet_x_400mf, **_classes), SMALL),
    "regnet_y_400mf": _images(partial(models.regnet_y_400mf, **_classes), SMALL),
    "convnext": _images(
        partial(models.ConvNeXt, CONVNEXT, 0.3, **_classes), SMALL, note="stochastic depth; blocks own a layer scale"
    ),
    "mnasnet0_5": _images(partial(models.mnasnet0_5, **_classes), SMALL),
    "vit": _images(
        partial(models.VisionTransformer, dropout=0.1, attention_dropout=0.1, **VIT, **_classes),
        SMALL,
        note="dropout, attention dropout; class token and positions belong to no called leaf",
    ),
    "swin": _images(
        partial(models.SwinTransformer, [4, 4], 16, [2, 2], [2, 4], [4, 4], **SWIN, **_classes),
        SMALL,
        note="stochastic depth, dropout, shifted windows",
    ),
    "swin_v2": _images(swin_v2, SMALL, note="stochastic depth, dropout; positions from a net of their own"),
    "maxvit": _images(
        partial(models.MaxVit, block_layers=[1, 2], head_dim=8, stochastic_depth_prob=0.3, **MAXVIT, **_classes),
        SMALL,
        note="stochastic depth",
    ),
}

_vectors = partial(_images, shape=(6, 12))
_sequences = partial(_images, shape=(4, 7), tokens=True)

OWN: dict[str, Family] = {
    "transformer_encoder": _sequences(own_nets.Encoder, note="nn.TransformerEncoder, dropout 0.1"),
    "transformer_encoder_eval": _sequences(own_nets.encoder_in_eval_mode, note="eval mode: torch's fused path is near"),
    "split_attention": _sequences(own_nets.SplitAttention, note="separate q, k, v; attention runs between calls"),
    "lstm": _sequences(own_nets.Lstm, note="two layers, both directions, dropout between them"),
    "gru_cell": _sequences(own_nets.UnrolledGru, note="one cell called at every position"),
    "tied_embeddings": Family(own_nets.Tied, (4, 7), own_nets.next_token, tokens=True, note="embedding = output layer"),
    "batch_norm_eval": _images(own_nets.frozen_batch_norm, SMALL, note="ResNet in train mode, its BatchNorm in eval"),
    "group_norm": _images(partial(own_nets.normalised, partial(nn.GroupNorm, 2)), SMALL),
    "layer_norm": _vectors(own_nets.with_layer_norm),
    "instance_norm": _images(
        partial(own_nets.normalised, partial(nn.InstanceNorm2d, affine=True, track_running_stats=True)), SMALL
    ),
    "sync_batch_norm": _images(
        partial(own_nets.normalised, nn.SyncBatchNorm), SMALL, note="no process group: takes the batch's own statistics"
    ),
    "sync_batch_norm_eval": _images(own_nets.sync_batch_norm_in_eval_mode, SMALL),
    "weight_norm": _vectors(
        own_nets.with_weight_norm, note="parametrised: a module call inside every read of a weight"
    ),
    "spectral_norm": _vectors(own_nets.with_spectral_norm, note="its power iteration advances buffers"),
    "reused": _vectors(own_nets.Reused, note="one layer and one in-place activation called three times"),
    "under_no_grad": _vectors(
        own_nets.UnderNoGrad, note="a target net under no_grad shares layers with the trained one"
    ),
    "checkpointed": _vectors(own_nets.Checkpointed, note="recomputed in the backward pass"),
    "penalised_loss": Family(own_nets.with_layer_norm, (6, 12), own_nets.penalised, note="weight decay in the loss"),
    "hypernetwork": _vectors(own_nets.HyperNetwork, note="weights computed by a layer, used between calls"),
    "branching": _vectors(own_nets.Branching, note="which layers run, and how often, depends on the numbers"),
}

TRICKY: dict[str, Family] = {
    name: Family(make, (6, 12), loss_fn, note=note) for name, (make, loss_fn, note) in tricky_nets.NETS.items()
}

FAMILIES: dict[str, Family] = {**TORCHVISION, **OWN, **TRICKY}
