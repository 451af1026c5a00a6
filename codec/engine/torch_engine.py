"""The torch engine."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codec.engine import Audio, Codes, State
from codec.errors import ConfigError, ModelError
from codec.modelfolder import ModelFolder
from codec.network import Network


class TorchEngine:
    """Runs a model with torch, in float32, on a device."""

    def __init__(self, folder: ModelFolder, *, device: str = "cpu") -> None:
        self.device = find_device(device)
        self.network = load_network(folder).to(self.device)
        self.tables = self.network.bottleneck.tables()  # the weights do not change any more

    @property
    def name(self) -> str:
        """`torch`."""
        return "torch"

    @torch.inference_mode()
    def init_encoder(self, batch: int) -> State:
        """As `Engine`."""
        return _to_numpy(self.network.encoder.init_state(batch))

    @torch.inference_mode()
    def init_decoder(self, batch: int) -> State:
        """As `Engine`."""
        return _to_numpy(self.network.decoder.init_state(batch))

    @torch.inference_mode()
    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        """As `Engine`."""
        x = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(self.device)
        codes, after = self.network.encode_step(x, self._to_torch(state), n_codebooks, self.tables)
        return codes.cpu().numpy(), _to_numpy(after)

    @torch.inference_mode()
    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        """As `Engine`."""
        x = torch.from_numpy(np.ascontiguousarray(codes, np.int64)).to(self.device)
        audio, after = self.network.decode_step(x, self._to_torch(state))
        return audio.cpu().numpy(), _to_numpy(after)

    def _to_torch(self, state: State) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array).to(self.device) for array in state)


def load_network(folder: ModelFolder) -> Network:
    """The network of a model folder with its weights, for evaluation.

    Raises:
        ModelError: weights that are missing, left over or of another shape, by name.
    """
    try:
        network = Network(folder.config)
    except ConfigError as error:
        raise ModelError(f"{folder.path / 'model.json'}: {error}; install the model again") from None
    try:
        weights = load_file(folder.weights_path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder.weights_path}: cannot be read ({error}); install the model again") from None
    made = network.info(folder.info.name, folder.info.licence)
    windows = () if made.causal else ("context", "encoder_context")  # folders of causal models may lack the latter
    ahead = ("causal", "encoder_lookahead", "decoder_lookahead", *windows)
    ahead = (*ahead, "encoder_start", "decoder_start", "period", "condition", "ragged", "audio_channels", "segments")
    for name in ("sample_rate", "hop_length", "delay", "codebook_sizes", "divisors", "prefixes", *ahead):
        if getattr(made, name) != getattr(folder.info, name):
            said = f"{getattr(folder.info, name)}, its network has {getattr(made, name)}"
            raise ModelError(f"{folder.path / 'model.json'}: {name} is {said}; install the model again")
    own = network.state_dict()
    for what, keys in (("missing", own.keys() - weights.keys()), ("unknown", weights.keys() - own.keys())):
        if keys:
            raise ModelError(f"{folder.weights_path}: {what} weight {min(keys)}; the file belongs to another network")
    for key, mine in own.items():
        if mine.shape != weights[key].shape:
            shapes = f"{tuple(weights[key].shape)}, expected {tuple(mine.shape)}"
            raise ModelError(f"{folder.weights_path}: weight {key} has shape {shapes}")
    network.load_state_dict({key: x.float() if x.is_floating_point() else x for key, x in weights.items()})
    return network.eval().requires_grad_(False)


def find_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1` or `mps`, checked. Raises: ModelError: unknown, or not on this machine."""
    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    there = {"cpu": 1, "cuda": cuda, "mps": int(mps)}
    try:
        device = torch.device(name)
        count = there[device.type]
    except (KeyError, RuntimeError):
        raise ModelError(f"device {name!r}: unknown; use cpu, cuda or mps") from None
    if not count:
        raise ModelError(f"device {name!r}: this machine has none; use cpu")
    if (device.index or 0) >= count:
        raise ModelError(f"device {name!r}: the last one of this machine is {device.type}:{count - 1}; use one of them")
    return device


def _to_numpy(tensors: tuple[Tensor, ...]) -> State:
    # Copies in memory order, so that a restored state and a live one go through the same kernels.
    return tuple(x.cpu().contiguous().numpy() for x in tensors)
