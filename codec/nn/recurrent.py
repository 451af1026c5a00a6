"""Recurrent layers. Their memory travels in the state, so a stream does not forget between blocks.

>>> layer = Lstm(4, n_layers=2, skip=True)
>>> y, (hidden, cell) = layer.step(torch.randn(3, 4, 5), layer.init_state(3))
>>> y.shape, hidden.shape, cell.shape
(torch.Size([3, 4, 5]), torch.Size([3, 2, 4]), torch.Size([3, 2, 4]))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.nn.layers import Layer, State
from codec.nn.symmetric import WholeLayer


class Lstm(Layer):
    """Stacked LSTM over frames, (B, D, F) -> (B, D, F); with `skip` the input is added, as in EnCodec.

    EnCodec itself starts each call from zero; here hidden and cell values go from block to block.

    Source: Hochreiter and Schmidhuber 1997; EnCodec, section 3.1.
    """

    n_states = 2

    def __init__(self, dim: int, *, n_layers: int = 1, skip: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, n_layers, batch_first=True)
        self.skip = skip

    @property
    def receptive_field(self) -> None:
        """Everything before."""

    def init_state(self, batch: int) -> State:
        """Hidden and cell values, zeros: (B, n_layers, D) each."""
        shape = (batch, self.lstm.num_layers, self.lstm.hidden_size)
        return (self._zeros(*shape), self._zeros(*shape))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Frame after frame, in the precision of the weights: the cell sums over the whole stream."""
        hidden, cell = (_swap(tensor) for tensor in state)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.transpose(1, 2).to(hidden.dtype)
            y, (hidden, cell) = self.lstm(rows, (hidden, cell))
        y = y.transpose(1, 2)
        return (x + y if self.skip else y), (_swap(hidden), _swap(cell))


class Gru(Layer):
    """Stacked GRU over frames, (B, D, F) -> (B, D, F); with `skip` the input is added.

    Source: Cho et al. 2014, in cuDNN's variant (torch.nn.GRU).
    """

    def __init__(self, dim: int, *, n_layers: int = 1, skip: bool = False) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, n_layers, batch_first=True)
        self.skip = skip

    @property
    def receptive_field(self) -> None:
        """Everything before."""

    def init_state(self, batch: int) -> State:
        """Hidden values, zeros: (B, n_layers, D)."""
        return (self._zeros(batch, self.gru.num_layers, self.gru.hidden_size),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Frame after frame, in the precision of the weights."""
        with torch.autocast(x.device.type, enabled=False):
            rows = x.transpose(1, 2).to(state[0].dtype)
            y, hidden = self.gru(rows, _swap(state[0]))
        y = y.transpose(1, 2)
        return (x + y if self.skip else y), (_swap(hidden),)


class BiLstm(WholeLayer):
    """Stacked LSTM over frames in both directions, (B, D, F) -> (B, 2 * D, F); with `skip` the input is added to both.

    The backward one begins at the last frame: every output depends on the whole signal, so it cannot stream.

    Source: Zhang et al. 2024 (SpeechTokenizer), section 3.1.
    """

    lookahead = None

    def __init__(self, dim: int, *, n_layers: int = 1, skip: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, n_layers, batch_first=True, bidirectional=True)
        self.skip = skip

    @property
    def receptive_field(self) -> None:
        """The whole signal."""

    def apply_to(self, x: Tensor) -> Tensor:
        """Both directions, in the precision of the weights."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.lstm(x.transpose(1, 2).to(self._zeros(0).dtype))[0]
        y = y.transpose(1, 2)
        return y + torch.cat((x, x), 1) if self.skip else y


def _swap(state: Tensor) -> Tensor:
    """(B, n_layers, D) <-> (n_layers, B, D): torch puts the layers first even with batch_first."""
    return state.transpose(0, 1).contiguous()
