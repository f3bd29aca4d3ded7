"""Recurrent constructs: cuDNN-style layers, cells in a loop, and scans unrolled by tracing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.sample import catalogue, floats, recipe, whole


class Lstm(nn.Module):
    """Weights hold four gates of one hidden space, outer to inner: (4 h) x i."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.stem(x))
        return self.head(y[:, -1])


class BidirectionalLstm(nn.Module):
    """Two layers, two directions: the second layer reads the concatenation of both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(20, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        y, (hidden, _) = self.lstm(self.embed(tokens).transpose(0, 1))
        return self.head(torch.cat([y.mean(0), hidden[-2], hidden[-1]], dim=1))


class ProjectedLstm(nn.Module):
    """proj_size: the recurrent state and the cell have different spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 10, proj_size=6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class Gru(nn.Module):
    """Three gates; the initial state comes from another layer; the final state is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = nn.Linear(3, 10)
        self.gru = nn.GRU(5, 10, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.gru(x, torch.tanh(self.begin(context)).unsqueeze(0))
        return self.head(y), state


class Rnn(nn.Module):
    """The plain recurrent layer with relu and without bias, two layers deep."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(5, 10, num_layers=2, nonlinearity="relu", bias=False, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].amax(1))


class LstmCellLoop(nn.Module):
    """nn.LSTMCell in a Python loop: one set of weights, used at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(5, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.shape[0], 10)
        memory = torch.zeros_like(hidden)
        for step in x.unbind(1):
            hidden, memory = self.cell(step, (hidden, memory))
        return self.head(hidden)


class GruCellLoop(nn.Module):
    """nn.GRUCell in a loop with a literal zero state; all states are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 10, dtype=x.dtype)
        states = []
        for at in range(x.size(1)):
            state = self.cell(x[:, at], state)
            states.append(state)
        return self.head(torch.stack(states, dim=1))


class OwnLstm(nn.Module):
    """Gates by hand: cat of input and state into one linear, chunk in four, loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(5 + 10, 40)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = memory = x.new_zeros((x.shape[0], 10))
        for at in range(x.shape[1]):
            gates = self.gates(torch.cat((x[:, at], hidden), 1))
            keep, write, show, value = gates.chunk(4, 1)
            memory = keep.sigmoid() * memory + write.sigmoid() * value.tanh()
            hidden = show.sigmoid() * memory.tanh()
        return self.head(hidden)


class GatedLinearScan(nn.Module):
    """A gated linear recurrence with a (channel x state) memory, unrolled (Mamba-like)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.conv = nn.Linear(5, 20), nn.Conv1d(10, 10, 3, padding=2, groups=10)
        self.step, self.read = nn.Linear(10, 10), nn.Linear(10, 2 * 4, bias=False)
        self.rate = nn.Parameter(torch.rand(10, 4))
        self.skip = nn.Parameter(torch.ones(10))
        self.down = nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        value, gate = self.up(x).chunk(2, dim=-1)
        value = F.silu(self.conv(value.transpose(1, 2))[..., :n].transpose(1, 2))
        step = F.softplus(self.step(value))
        write, read = self.read(value).split(4, dim=-1)
        decay = torch.exp(-step.unsqueeze(-1) * self.rate)
        added = (step * value).unsqueeze(-1) * write.unsqueeze(2)
        memory = torch.zeros_like(added[:, 0])
        shown = []
        for at in range(n):
            memory = decay[:, at] * memory + added[:, at]
            shown.append((memory * read[:, at].unsqueeze(1)).sum(-1))
        y = torch.stack(shown, dim=1) + value * self.skip
        return self.down(y * F.silu(gate))


class LstmClassifier(nn.Module):
    """Sequence length symbolic around an LSTM; embedding tied to nothing, states unused."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 6)
        self.lstm = nn.LSTM(6, 10, batch_first=True, bias=False)
        self.norm = nn.LayerNorm(10)
        self.head = nn.Linear(10, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(tokens))
        return self.head(self.norm(y).mean(1))


STEPS = floats(2, 7, 5)

RECURRENT = catalogue(
    lstm=recipe(Lstm, STEPS),
    bidirectional_lstm=recipe(BidirectionalLstm, whole(2, 7, below=17)),
    projected_lstm=recipe(ProjectedLstm, STEPS),
    gru=recipe(Gru, STEPS, floats(2, 3)),
    rnn=recipe(Rnn, STEPS),
    lstm_cell_loop=recipe(LstmCellLoop, STEPS),
    gru_cell_loop=recipe(GruCellLoop, STEPS),
    own_lstm=recipe(OwnLstm, STEPS),
    gated_linear_scan=recipe(GatedLinearScan, STEPS),
    lstm_classifier=recipe(LstmClassifier, whole(2, 7, below=17)),
)
