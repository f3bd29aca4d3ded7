"""Small transformers: positions, masks, windows, class tokens, gated feed-forward, routing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.sample import catalogue, floats, recipe, whole


def heads(x: Tensor, count: int) -> Tensor:
    """(b, n, count * size) to (b, count, n, size)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class LanguageModel(nn.Module):
    """Dynamic sequence length; embedding tied to the head; learned positions; causal buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(23, 12)
        self.position = nn.Embedding(16, 12)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(12) for _ in range(3))
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 23, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("causal", torch.tril(torch.ones(16, 16)).bool(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.embed(tokens) + self.position(torch.arange(n, device=tokens.device))
        q, k, v = (heads(part, 3) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        scores = (q @ k.mT) * 0.5
        scores = scores.masked_fill(~self.causal[:n, :n], torch.finfo(scores.dtype).min)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return self.head(self.norm(x))


class CausalMask(nn.Module):
    """A mask built in the graph: full, triu, in-place fill_ and masked_fill_ on fresh values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        future = torch.triu(torch.full((n, n), float("-inf"), dtype=x.dtype), diagonal=1)
        first = torch.zeros(n, n, dtype=x.dtype)
        first[:, :2].fill_(0.25)
        where = torch.arange(n)
        near = torch.ones(n, n, dtype=x.dtype)
        near.masked_fill_((where[:, None] - where[None]).abs() > 2, 0)
        scores = self.q(x) @ self.k(x).transpose(1, 2) + future + first + near
        return self.head(scores.softmax(-1) @ self.v(x))


class Rotary(nn.Module):
    """Rotary positions: rotate_half by slicing the head size, negate, concatenate."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 18, bias=False) for _ in range(3))
        self.out = nn.Linear(18, 7)
        self.register_buffer("rate", 1 / 100 ** (torch.arange(0, 6, 2) / 6), persistent=False)

    @staticmethod
    def turned(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1]).to(self.rate.dtype)[:, None] * self.rate
        angle = torch.cat((angle, angle), -1)
        q, k, v = (heads(part(x), 3) for part in (self.q, self.k, self.v))
        q, k = (part * angle.cos() + self.turned(part) * angle.sin() for part in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class RotaryPairs(nn.Module):
    """Rotary positions on interleaved pairs: steps of 2 on the head size, stack, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.out = nn.Linear(5, 36), nn.Linear(5, 18), nn.Linear(18, 7)
        self.register_buffer("angle", torch.rand(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        sin, cos = self.angle.sin(), self.angle.cos()
        turned = []
        for part in self.qk(x).chunk(2, -1):
            even, odd = heads(part, 3)[..., 0::2], heads(part, 3)[..., 1::2]
            pair = (even * cos - odd * sin, even * sin + odd * cos)
            turned.append(torch.stack(pair, -1).flatten(-2))
        y = F.scaled_dot_product_attention(*turned, heads(self.v(x), 3))
        return self.out(y.transpose(1, 2).flatten(2))


class RelativeBias(nn.Module):
    """Swin: a (positions, heads) table indexed by a buffer, reshaped to a per-head bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(5, 36), nn.Linear(12, 6)
        self.table = nn.Parameter(torch.zeros(13, 3))
        at = torch.arange(7)
        self.register_buffer("index", at[:, None] - at[None] + 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part, 3) for part in self.qkv(x).chunk(3, -1))
        bias = self.table[self.index.view(-1)].view(7, 7, -1).permute(2, 0, 1).contiguous()
        scores = q @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class AlibiBias(nn.Module):
    """ALiBi: fixed slopes per head times distance; the heads axis meets a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(5, 36), nn.Linear(12, 6)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part, 3) for part in self.qkv(x).chunk(3, -1))
        at = torch.arange(x.shape[1])
        bias = -(at[:, None] - at[None]).abs() * self.slopes
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))
        return self.out(y.transpose(1, 2).flatten(2))


class ShiftedWindows(nn.Module):
    """roll, window partition into the batch axis, attention, reverse; then patch merging."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, 2)
        self.norm = nn.LayerNorm(12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.merge_norm = nn.LayerNorm(48)
        self.merge = nn.Linear(48, 14, bias=False)
        self.head = nn.Linear(14, 5)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part, 3) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), shifts=(-1, -1), dims=(1, 2))
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        y = self.attend(y.contiguous().view(-1, 4, c))
        y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, shifts=(1, 1), dims=(1, 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = self.merge(self.merge_norm(torch.cat(corners, -1)))
        return self.head(x.flatten(1, 2).mean(1))


class ClassToken(nn.Module):
    """ViT: a class token, expanded and concatenated on the token axis; positions added."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.position = nn.Parameter(torch.zeros(1, 10, 12))
        self.block = nn.TransformerEncoderLayer(12, 3, 14, batch_first=True, norm_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat((token, x), dim=1) + self.position
        return self.head(self.block(x)[:, 0])


class SwiGlu(nn.Module):
    """Llama's feed-forward with RMS norm: silu(gate) * up, three unlike linears, no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 10)
        self.norm = nn.RMSNorm(10, eps=1e-6)
        self.gate, self.up = nn.Linear(10, 14, bias=False), nn.Linear(10, 14, bias=False)
        self.down = nn.Linear(14, 10, bias=False)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class Glu(nn.Module):
    """F.glu halves channels; a fused SwiGLU does it by hand; nn.GLU on a conv's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.glu = nn.Conv1d(5, 12, 3, padding=1), nn.GLU(dim=1)
        self.one, self.two = nn.Linear(6, 20), nn.Linear(10, 28)
        self.head = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.glu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        gate, up = self.two(F.glu(self.one(x))).chunk(2, -1)
        return self.head(F.silu(gate) * up)


class BranchMixture(nn.Module):
    """A DARTS-like edge: softmaxed architecture parameters weigh five unlike branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.branches = nn.ModuleList([
            nn.Conv2d(10, 10, 3, padding=1),
            nn.Sequential(nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.Conv2d(10, 10, 1)),
            nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1), nn.Identity(),
        ])
        self.alpha = nn.Parameter(torch.zeros(5))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weights = self.alpha.softmax(0)
        x = sum(w * branch(x) for w, branch in zip(weights, self.branches, strict=True))
        return self.head(F.relu(x).mean((2, 3)))


class GatedExperts(nn.Module):
    """Softmax gate from the input, experts stacked on a new axis and summed with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, 10)) for wide in (4, 7, 9)
        )
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([expert(x) for expert in self.experts], dim=1)
        return self.head(F.relu((self.gate(x).softmax(-1).unsqueeze(-1) * stacked).sum(1)))


class RoutedExperts(nn.Module):
    """Dense top-k: topk, softmax, scatter back to a full gate; experts as 3-d parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, 6, 14) / 3)
        self.down = nn.Parameter(torch.randn(4, 14, 10) / 3)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = torch.topk(self.router(x), 2, dim=-1)
        gate = torch.zeros(x.shape[0], 4, dtype=x.dtype)
        gate = gate.scatter(-1, chosen, best.softmax(-1))
        hidden = F.gelu(torch.einsum("bc,eco->beo", x, self.up))
        return self.head(torch.einsum("beo,eoc,be->bc", hidden, self.down, gate))


class TokenRouting(nn.Module):
    """Switch-style one-hot dispatch: every expert runs on all tokens, one_hot masks its output."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 10) for _ in range(3))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        mask = F.one_hot(scores.argmax(-1), 3).to(x.dtype) * scores
        parts = (mask[..., i, None] * expert(x) for i, expert in enumerate(self.experts))
        return self.head(torch.relu(sum(parts)))


TRANSFORMER = catalogue(
    language_model=recipe(LanguageModel, whole(2, 7, below=23), dynamic={"tokens": {1: "n"}}),
    causal_mask=recipe(CausalMask, floats(2, 7, 5)),
    rotary=recipe(Rotary, floats(2, 7, 5), dynamic={"x": {1: "n"}}),
    rotary_pairs=recipe(RotaryPairs, floats(2, 7, 5)),
    relative_bias=recipe(RelativeBias, floats(2, 7, 5)),
    alibi_bias=recipe(AlibiBias, floats(2, 7, 5)),
    shifted_windows=recipe(ShiftedWindows, floats(2, 3, 8, 8)),
    class_token=recipe(ClassToken, floats(2, 3, 6, 6)),
    swiglu=recipe(SwiGlu, floats(2, 7, 5)),
    glu=recipe(Glu, floats(2, 7, 5)),
    branch_mixture=recipe(BranchMixture, floats(2, 3, 6, 6)),
    gated_experts=recipe(GatedExperts, floats(2, 6)),
    routed_experts=recipe(RoutedExperts, floats(2, 6)),
    token_routing=recipe(TokenRouting, floats(2, 7, 6)),
)
