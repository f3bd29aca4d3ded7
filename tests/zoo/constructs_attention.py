"""Attention in the ways that people write it: how heads come and go, and what masks them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.sample import catalogue, flags, floats, recipe

HEADS, SIZE = 3, 4
INNER = HEADS * SIZE


class FusedUnbind(nn.Module):
    """ViT style: reshape to (b, n, 3, heads, size), permute, unbind, explicit softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 10)
        self.qkv = nn.Linear(10, 3 * INNER)
        self.out = nn.Linear(INNER, 10)
        self.head = nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * SIZE**-0.5).softmax(-1)
        return self.head(x + self.out((weights @ v).transpose(1, 2).reshape(b, n, INNER)))


class FusedChunk(nn.Module):
    """chunk first, then heads by view(b, n, heads, size); sdpa with its default scale."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(5, 3 * INNER, bias=False)
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            part.view(b, n, HEADS, SIZE).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).contiguous().view(b, n, -1))


class FusedInterleaved(nn.Module):
    """GPT-NeoX style: heads are outermost, q, k, v lie side by side within each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(5, 3 * INNER)
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, HEADS, 3 * SIZE).transpose(1, 2).split(SIZE, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        return self.out(y.transpose(1, 2).flatten(2))


class Separate(nn.Module):
    """Three projections; v has its own head size; scores by transposed matmul over sqrt."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(5, INNER), nn.Linear(5, INNER)
        self.v = nn.Linear(5, HEADS * 7)
        self.out = nn.Linear(HEADS * 7, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, HEADS, -1).transpose(1, 2)
        k = self.k(x).view(b, n, HEADS, -1).transpose(1, 2)
        v = self.v(x).view(b, n, HEADS, -1).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(2, 3)) / q.shape[-1] ** 0.5
        y = torch.matmul(F.dropout(scores.softmax(-1), 0.1, self.training), v)
        return self.out(y.transpose(1, 2).reshape(b, n, HEADS * 7))


class MergedHeads(nn.Module):
    """The old fairseq way: batch and heads merged in one axis, bmm and baddbmm."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, INNER) for _ in range(3))
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            part(x).view(b, n, HEADS, SIZE).transpose(1, 2).reshape(b * HEADS, n, SIZE)
            for part in (self.q, self.k, self.v)
        )
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=0.5, alpha=SIZE**-0.5)
        y = torch.bmm(scores.softmax(-1), v).view(b, HEADS, n, SIZE)
        return self.out(y.transpose(1, 2).reshape(b, n, INNER))


class SelfMha(nn.Module):
    """nn.MultiheadAttention arrives as primitives, its in_proj as one functional linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, INNER)
        self.attend = nn.MultiheadAttention(INNER, HEADS, batch_first=True)
        self.head = nn.Linear(INNER, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y, weights = self.attend(x, x, x)
        return self.head(x + y), weights


class CrossMha(nn.Module):
    """Cross attention, sequence first: three projections of unlike fan-in, bias_k and bias_v."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(INNER, HEADS, kdim=5, vdim=7, add_bias_kv=True)
        self.stem = nn.Linear(6, INNER)
        self.head = nn.Linear(INNER, 4)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        x, key, value = x.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        y, _ = self.attend(self.stem(x), key, value, need_weights=False)
        return self.head(y).transpose(0, 1)


class EncoderLayers(nn.Module):
    """nn.TransformerEncoderLayer, post-norm and pre-norm, with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        options = {"dropout": 0.1, "batch_first": True}
        self.post = nn.TransformerEncoderLayer(INNER, HEADS, 14, **options)
        self.pre = nn.TransformerEncoderLayer(INNER, HEADS, 10, norm_first=True,
                                              activation="gelu", **options)
        self.head = nn.Linear(INNER, 6)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.post(x, src_key_padding_mask=padding.logical_not())
        return self.head(self.pre(x))


class DecoderLayer(nn.Module):
    """nn.TransformerDecoderLayer with a causal mask from generate_square_subsequent_mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(INNER, HEADS, 14, batch_first=True)
        self.head = nn.Linear(INNER, 6)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.layer(x, memory, tgt_mask=mask))


class GroupedExpand(nn.Module):
    """Llama style: 2 key heads serve 6 query heads through expand and reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 24), nn.Linear(5, 8), nn.Linear(5, 8)
        self.out = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 6, 4).transpose(1, 2)
        k, v = (
            part(x).view(b, n, 2, 4).transpose(1, 2)[:, :, None]
            .expand(b, 2, 3, n, 4).reshape(b, 6, n, 4)
            for part in (self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, n, 24))


class GroupedRepeat(nn.Module):
    """The same through repeat_interleave, softmax upcast to float32."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 24), nn.Linear(5, 8), nn.Linear(5, 8)
        self.out = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 6, 4).transpose(1, 2)
        k = self.k(x).view(b, n, 2, 4).repeat_interleave(3, dim=2).permute(0, 2, 3, 1)
        v = self.v(x).view(b, n, 2, 4).repeat_interleave(3, dim=2).transpose(1, 2)
        weights = F.softmax(q @ k / 2, dim=-1, dtype=torch.float32).to(q.dtype)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, 24))


class GroupedNative(nn.Module):
    """The same through sdpa's enable_gqa."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 24), nn.Linear(5, 8), nn.Linear(5, 8)
        self.out = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (6, 4)).transpose(1, 2)
        k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(-2))


class MultiQuery(nn.Module):
    """One key head is broadcast over all query heads by matmul itself."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(5, INNER), nn.Linear(5, 2 * SIZE)
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, HEADS, SIZE).transpose(1, 2)
        k, v = self.kv(x).unsqueeze(1).split(SIZE, -1)
        y = (q @ k.mT / 2).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, INNER))


class QueryKeyNorm(nn.Module):
    """Layer norms on the head size of q and k; sdpa with an additive mask from the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, INNER) for _ in range(3))
        self.q_norm, self.k_norm = nn.LayerNorm(SIZE), nn.RMSNorm(SIZE)
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


class TalkingHeads(nn.Module):
    """Linear maps over the head axis, before and after softmax, and a per-head temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(5, 3 * INNER)
        self.before, self.after = nn.Linear(HEADS, 5), nn.Linear(5, HEADS)
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * self.temperature
        weights = self.before(scores.permute(0, 2, 3, 1)).softmax(2)
        y = self.after(weights).permute(0, 3, 1, 2) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, INNER))


class ChannelAttention(nn.Module):
    """XCA: q and k are normalised over tokens, softmax runs over channels of one head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 1)
        self.qkv = nn.Conv2d(10, 3 * INNER, 1)
        self.depth = nn.Conv2d(3 * INNER, 3 * INNER, 3, padding=1, groups=3 * INNER)
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.out = nn.Conv2d(INNER, 10, 1)
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, _, h, w = x.shape
        q, k, v = (
            part.view(b, HEADS, SIZE, h * w) for part in self.depth(self.qkv(x)).chunk(3, 1)
        )
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.head(x + self.out((weights @ v).reshape(b, INNER, h, w)))


class NonLocal(nn.Module):
    """Attention over pixels in channels-first layout: bmm of (b, c, hw), a gate starting at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.q, self.k, self.v = nn.Conv2d(10, 4, 1), nn.Conv2d(10, 4, 1), nn.Conv2d(10, 10, 1)
        self.gate = nn.Parameter(torch.zeros(1))
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, c, h, w = x.size()
        q = self.q(x).view(b, -1, h * w).permute(0, 2, 1)
        weights = torch.bmm(q, self.k(x).view(b, -1, h * w)).softmax(-1)
        y = torch.bmm(self.v(x).view(b, c, h * w), weights.transpose(1, 2)).view(b, c, h, w)
        return self.head(self.gate * y + x)


class LinearAttention(nn.Module):
    """elu + 1 features and einsum: keys meet values first, then a per-query normaliser."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, INNER) for _ in range(3))
        self.out = nn.Linear(INNER, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, SIZE)) for part in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("bnhd,bnhe->bhde", k, v)
        weight = 1 / (torch.einsum("bnhd,bhd->bnh", q, k.sum(1)) + 1e-3)
        y = torch.einsum("bnhd,bhde,bnh->bnhe", q, memory, weight)
        return self.out(y.flatten(2))


class EinsumAttention(nn.Module):
    """Einsum projections with (width, heads, size) parameters and einsum scores."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(5, HEADS, SIZE) / 2) for _ in range(3))
        self.out = nn.Parameter(torch.randn(HEADS, SIZE, 6) / 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,chd->bhnd", x, part) for part in (self.q, self.k, self.v))
        weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
        return torch.einsum("bhij,bhjd,hdo->bio", weights, v, self.out)


class AttentionPooling(nn.Module):
    """A learned query, expanded over the batch, reads a sequence; a mask excludes padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 10)
        self.query = nn.Parameter(torch.randn(1, 2, 6))
        self.key, self.value = nn.Linear(10, 6), nn.Linear(10, 14)
        self.head = nn.Linear(2 * 14, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        query = self.query.expand(x.shape[0], -1, -1)
        scores = torch.bmm(query, self.key(x).transpose(1, 2))
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
        return self.head(torch.bmm(scores.softmax(-1), self.value(x)).flatten(1))


class AdditiveAttention(nn.Module):
    """Bahdanau: scores from tanh of a broadcast sum, contracted by one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(5, 10), nn.Linear(6, 10, bias=False)
        self.score = nn.Linear(10, 1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        mixed = torch.tanh(self.query(x)[:, :, None] + self.key(memory)[:, None])
        weights = self.score(mixed).squeeze(-1).softmax(-1)
        return self.head(weights @ memory)


class RelativeShift(nn.Module):
    """Transformer-XL: scores by distance, padded and dealt out anew so that every row shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(5, 12) for _ in range(3))
        self.distance = nn.Parameter(torch.randn(3, 7, 4))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).view(-1, 7, 3, 4).transpose(1, 2)
                             for layer in (self.query, self.key, self.value))  # fmt: skip
        shifted = F.pad(query @ self.distance.transpose(1, 2), (1, 0))
        shifted = shifted.reshape(-1, 3, 8, 7)[:, :, 1:].reshape(-1, 3, 7, 7)
        scores = (query @ key.transpose(2, 3) + shifted).softmax(-1)
        return self.head((scores @ value).transpose(1, 2).flatten(2))


class SpanKernels(nn.Module):
    """ConvBERT: every token's heads weigh what is around it, by a kernel that the token makes.

    Batch, tokens and heads become one axis, of which two sizes are open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.value = nn.Linear(5, 2 * 3), nn.Linear(5, 2 * 6)
        self.head = nn.Linear(2 * 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.kernel(x).reshape(-1, 3, 1).softmax(1)
        value = F.pad(self.value(x), (0, 0, 1, 1)).unfold(1, 3, 1)
        mixed = value.reshape(-1, 6, 3) @ weights
        return self.head(torch.tanh(mixed.reshape(-1, x.shape[1], 2 * 6)))


TOKENS = floats(2, 7, 5)

ATTENTION = catalogue(
    fused_unbind=recipe(FusedUnbind, TOKENS),
    fused_chunk=recipe(FusedChunk, TOKENS, dynamic={"x": {1: "n"}}),
    fused_interleaved=recipe(FusedInterleaved, TOKENS),
    separate_qkv=recipe(Separate, TOKENS),
    merged_heads=recipe(MergedHeads, TOKENS, floats(2 * HEADS, 7, 7)),
    self_mha=recipe(SelfMha, TOKENS),
    cross_mha=recipe(CrossMha, floats(2, 9, 6), floats(2, 7, 5), floats(2, 7, 7)),
    encoder_layers=recipe(EncoderLayers, floats(2, 7, INNER), flags(2, 7)),
    decoder_layer=recipe(DecoderLayer, floats(2, 7, INNER), floats(2, 9, INNER)),
    grouped_expand=recipe(GroupedExpand, TOKENS),
    grouped_repeat=recipe(GroupedRepeat, TOKENS),
    grouped_native=recipe(GroupedNative, TOKENS),
    multi_query=recipe(MultiQuery, TOKENS),
    query_key_norm=recipe(QueryKeyNorm, TOKENS, floats(2, 1, 7, 7)),
    talking_heads=recipe(TalkingHeads, TOKENS),
    channel_attention=recipe(ChannelAttention, floats(2, 3, 6, 6)),
    non_local=recipe(NonLocal, floats(2, 3, 6, 6)),
    linear_attention=recipe(LinearAttention, TOKENS),
    einsum_attention=recipe(EinsumAttention, TOKENS),
    attention_pooling=recipe(AttentionPooling, TOKENS, flags(2, 7)),
    additive_attention=recipe(AdditiveAttention, TOKENS, floats(2, 9, 6)),
    relative_shift=recipe(RelativeShift, TOKENS),
    span_kernels=recipe(SpanKernels, TOKENS, dynamic={"x": {1: "n"}}),
)
