"""Networks as people write them, in small: ``make(name)`` gives one in evaluation mode with data of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import zoo_classifiers as classifiers
import zoo_maps as maps
import zoo_sequences as sequences
import zoo_tokens as tokens
from networks import Shape, samples
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """How to make a network, and the shapes of its inputs without the batch."""

    build: Callable[[], nn.Module]
    shapes: tuple[Shape, ...]


def _one(build: Callable[[], nn.Module], *shape: int) -> Entry:
    return Entry(build, (shape,))


ZOO: dict[str, Entry] = {
    "mobilenet_v3": _one(classifiers.mobilenet_v3, 3, 16, 16),
    "efficientnet": _one(classifiers.EfficientNet, 3, 16, 16),
    "shufflenet_v2": _one(classifiers.shufflenet_v2, 3, 16, 16),
    "squeezenet": _one(classifiers.SqueezeNet, 3, 18, 18),
    "convnext": _one(classifiers.ConvNeXt, 3, 16, 16),
    "unet": _one(maps.UNet, 3, 12, 10),
    "detector": _one(maps.Detector, 3, 16, 16),
    "ssd": _one(maps.SSD, 3, 12, 12),
    "vae_encoder": _one(maps.Encoder, 1, 8, 8),
    "espcn": _one(maps.ESPCN, 1, 8, 8),
    "edsr": _one(maps.EDSR, 3, 6, 6),
    "wavenet": _one(sequences.WaveNet, 2, 24),
    "keyword": _one(sequences.KeywordNet, 21, 10),
    "crnn_lstm": _one(sequences.CRNN, 1, 8, 12),
    "crnn_gru": _one(lambda: sequences.CRNN("GRU"), 1, 8, 12),
    "lstm": _one(sequences.LSTMClassifier, 6, 3),
    "gru": _one(sequences.GRUClassifier, 6, 3),
    "vit_written": _one(lambda: tokens.VisionTransformer(True), 1, 8, 8),
    "vit_module": _one(lambda: tokens.VisionTransformer(False), 1, 8, 8),
    "mixer": _one(tokens.MlpMixer, 3, 8, 8),
    "deep_sets": _one(tokens.DeepSets, 5, 3),
    "interaction": _one(tokens.InteractionNetwork, 3, 4),
    "pointnet": _one(tokens.PointNet, 3, 8),
    "siamese": Entry(lambda: tokens.SiameseNetwork(False), ((1, 8, 8), (1, 8, 8))),
    "siamese_norm": Entry(lambda: tokens.SiameseNetwork(True), ((1, 8, 8), (1, 8, 8))),
    "policy": _one(tokens.ActorCritic, 6),
    "fracbnn": _one(tokens.FracBNN, 3, 8, 8),
}


def data(name: str, count: int = 48, seed: int = 0) -> tuple[Tensor, ...]:
    return tuple(samples(shape, count, seed + place) for place, shape in enumerate(ZOO[name].shapes))


def make(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network, its norms settled on the data, and that data."""
    inputs = data(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[name].build()
        _settle(model, inputs)
    return model.eval(), inputs


def _settle(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Running statistics of the data, and BatchNorm's parameters as after some training."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum, kept = None, norm.momentum
            norm.weight.copy_(0.6 + 0.8 * torch.rand(norm.weight.shape))
            norm.bias.copy_(0.3 * torch.randn(norm.bias.shape))
            norm.momentum_kept = kept
        model.train()
        if norms:
            model(*inputs)
    for norm in norms:
        norm.momentum = norm.momentum_kept
        del norm.momentum_kept
