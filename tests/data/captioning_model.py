"""Tiny captioning models with random weights, saved as folders: no download."""

from pathlib import Path

import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
)

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["a", "the", "photo", "of", "red", "green", "blue", "disc", "box", "on", "under", "left", "right"],
]


NARROW = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_tiny_blip(folder: Path) -> Path:
    """Save a BLIP of two narrow layers, with weights so large that what it says depends on what it sees."""
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    text = {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 16,
        "projection_dim": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": 32, "patch_size": 8, "projection_dim": 16, "initializer_range": 0.5}
    torch.manual_seed(0)
    config = BlipConfig(text_config=NARROW | text, vision_config=NARROW | vision, initializer_range=0.5)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def save_tiny_git(folder: Path) -> Path:
    """Save a GIT of two narrow layers."""
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    config = GitConfig(
        vision_config=NARROW | {"image_size": 32, "patch_size": 8},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
        **NARROW,
    )
    torch.manual_seed(0)
    GitForCausalLM(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    GitProcessor(images, tokenizer).save_pretrained(folder)
    return folder
