"""The models that are measured, by name: published sizes, and the zoo's own small ones.

A published size has `(full)` in its name: a classic of the zoo, or what the default config of a
family in transformers says, which is its base model. Weights are random, nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

import netir
from netir import Graph
from tests.zoo.classics import FULL
from tests.zoo.families import TEXT, decoder, encoder, patches, tiny
from tests.zoo.sample import Recipe, Sample, catalogue, floats, recipe, whole
from tests.zoo.traced import SAMPLES


class Block(nn.Module):
    """A residual block of one convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.norm = nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.outer = nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.norm(self.inner(x)).relu())


def chain(blocks: int, width: int = 8) -> nn.Module:
    """A long residual network."""
    body = (Block(width) for _ in range(blocks))
    return nn.Sequential(nn.Conv2d(3, width, 3), *body, nn.Conv2d(width, 5, 1))


def deep(family: str, kind: str) -> Callable[[], Sample]:
    """Twelve layers of a BERT-like encoder."""
    return encoder(family, kind, num_hidden_layers=12)


def published(family: str, kind: str, *inputs: Any, **config: Any) -> Recipe:
    """A family at the size that its default config says."""
    return recipe(tiny(family, kind, **config), *inputs)


IMAGE, SMALL = floats(1, 3, 224, 224), floats(1, 3, 16, 16)

WORDS = whole(1, 32, below=1000)
CLASSIFY, SORT, WRITE = "ForImageClassification", "ForSequenceClassification", "ForCausalLM"
ROTARY = {"use_cache": False, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 8192,
          "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30}

BASES: Mapping[str, Recipe] = MappingProxyType({
    "resnet50_hf": published("ResNet", CLASSIFY, IMAGE),
    "convnext_tiny": published("ConvNext", CLASSIFY, IMAGE),
    "convnextv2_tiny": published("ConvNextV2", CLASSIFY, IMAGE),
    "regnet": published("RegNet", CLASSIFY, IMAGE),
    "mobilenet_v1": published("MobileNetV1", CLASSIFY, IMAGE),
    "mobilevit_small": published("MobileViT", CLASSIFY, floats(1, 3, 256, 256)),
    "efficientnet_b0": published("EfficientNet", CLASSIFY, IMAGE, width_coefficient=1.0,
                                 depth_coefficient=1.0, hidden_dim=1280, image_size=224),
    "vit_base": published("ViT", CLASSIFY, IMAGE),
    "deit_base": published("DeiT", CLASSIFY, IMAGE),
    "swin_tiny": published("Swin", CLASSIFY, IMAGE),
    "segformer_b0": published("Segformer", "ForSemanticSegmentation", IMAGE),
    "pvt_tiny": published("Pvt", CLASSIFY, IMAGE),
    "levit_128s": published("Levit", CLASSIFY, IMAGE),
    "bert_base": published("Bert", SORT, WORDS),
    "distilbert": published("DistilBert", SORT, WORDS),
    "electra_small": published("Electra", SORT, WORDS),
    "gpt2_small": published("GPT2", "LMHeadModel", WORDS, use_cache=False),
    "opt_125m": published("OPT", WRITE, WORDS, use_cache=False),
    "t5_small": recipe(lambda: tiny("T5", "EncoderModel")(), WORDS),
    "llama_135m": published("Llama", WRITE, WORDS, **ROTARY),
    "qwen2_135m": published("Qwen2", WRITE, WORDS, **ROTARY),
    "whisper_tiny": recipe(lambda: tiny("Whisper", "Model")().encoder, floats(1, 80, 3000)),
    "wav2vec2_base": published("Wav2Vec2", "ForCTC", floats(1, 16000)),
})  # fmt: skip

OWN: Mapping[str, Callable[[], Sample]] = MappingProxyType(catalogue(
    **{f"{name} (full)": recipe(build, IMAGE) for name, build in FULL.items()},
    **{f"{name} (full)": build for name, build in BASES.items()},
    **{"vit_b_16 (96 pixels)": recipe(partial(FULL["vit_b_16"], image=96), floats(1, 3, 96, 96))},
    bert_12=deep("Bert", "ForSequenceClassification"),
    vit_12=patches("ViT", num_hidden_layers=12),
    llama_12=decoder("Llama", num_hidden_layers=12),
    gpt2_12=recipe(tiny("GPT2", "LMHeadModel", vocab_size=61, n_embd=24, n_layer=12, n_head=3,
                        n_inner=40, n_positions=32, use_cache=False, bos_token_id=1,
                        eos_token_id=2), TEXT),
    bert_6_by_384=encoder("Bert", "ForSequenceClassification", vocab_size=1000, hidden_size=384,
                          num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536,
                          max_position_embeddings=64),
    **{f"residual_chain_{blocks}": recipe(lambda blocks=blocks: chain(blocks), SMALL)
       for blocks in (100, 200, 400, 800)},
))  # fmt: skip

PUBLISHED = tuple(f"{name} (full)" for name in (*FULL, *BASES))
CLASSIC = tuple(f"{name} (full)" for name in FULL)
DEEP = ("bert_12", "vit_12", "llama_12", "gpt2_12")
REAL = (*CLASSIC, *DEEP, "swin", "swinv2", "segformer", "mobilevit", "t5", "mamba")


def sample(name: str) -> Sample:
    """A fresh sample, from here or from the zoo, with no axis open but the batch."""
    return replace(OWN[name]() if name in OWN else SAMPLES[name](), dynamic=None)


def traced(name: str) -> Graph:
    """The graph of a sample."""
    made = sample(name)
    return netir.trace(made.model, made.args, made.kwargs)
