"""A CLAP model small enough for tests, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.clap import Clap

SMALL_CLAP: dict[str, Any] = {
    "projection_dim": 16,
    "text_config": {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 42,
    },
    "audio_config": {
        "hidden_size": 64,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
    },
}
"""Arguments of transformers' `ClapConfig`."""


def small_clap(*, fusion: bool = False) -> Clap:
    """Build a model in eval mode whose embeddings of different clips and texts differ clearly."""
    torch.manual_seed(3)
    audio = {**SMALL_CLAP["audio_config"], "enable_fusion": fusion}
    audio |= {"fusion_type": "aff_2d", "patch_embed_input_channels": 1} if fusion else {}
    model = Clap(False, config={**SMALL_CLAP, "audio_config": audio}).eval()
    with torch.no_grad():  # transformers initialises weights so close to 0 that all embeddings are alike
        for name, weight in model.network.named_parameters():
            if weight.dim() > 1:
                weight.mul_(5.0)
            elif name.startswith("logit_scale"):
                weight.fill_(3.0)
    return model


def save_clap(model: Clap, folder: Path) -> Path:
    """Write a model as transformers does: config, weights and preparation."""
    from transformers import ClapProcessor

    model.network.save_pretrained(folder)
    ClapProcessor(model._extractor, model._tokenizer).save_pretrained(folder)
    return folder
