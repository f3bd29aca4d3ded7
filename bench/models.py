"""The models that are measured, by name: the zoo's own, classics at their published size.

Widths of transformers are small, since nothing here depends on them; depths are stated where they
matter. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

import netir
from netir import Graph
from tests.zoo.classics import FULL
from tests.zoo.families import TEXT, decoder, encoder, patches, tiny
from tests.zoo.sample import Sample, catalogue, floats, recipe
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


IMAGE, SMALL = floats(1, 3, 224, 224), floats(1, 3, 16, 16)

OWN: Mapping[str, Callable[[], Sample]] = MappingProxyType(catalogue(
    **{f"{name} (full)": recipe(build, IMAGE) for name, build in FULL.items()},
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
