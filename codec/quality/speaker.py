"""Whether two recordings sound like one speaker: the voice encoder of Resemblyzer, its network alone.

The package's own code also loads webrtcvad and librosa; here only its weights are read, so that neither is needed. No
silence is cut: both recordings keep the same pauses. `pip install --no-deps resemblyzer==0.1.4`, since webrtcvad has no
wheels.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from codec.quality.bundled import file_of_package
from codec.quality.spectrogram import magnitudes, mel_filters

Floats = npt.NDArray[np.float32]

SPEECH_RATE = 16000  # Hz
N_FFT, HOP, N_MELS = 400, 160, 40  # Source: resemblyzer/hparams.py 0.1.4: 25 ms, 10 ms
WIDTH = 256  # of the LSTM and of the embedding
PARTIAL = 160  # frames that are embedded at once, 1.6 s
STEP = 77  # frames between them; 1.3 a second
COVERAGE = 0.75  # share of the last one that must be there
LEVEL_DB = -30.0  # quieter recordings are raised to it
WEIGHTS_HASH = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"  # resemblyzer/pretrained.pt


class VoiceEncoder(nn.Module):
    """Three LSTM layers over mel frames, and a positive embedding of length 1.

    Source: Wan and others, "Generalized end-to-end loss for speaker verification" (2018); Resemblyzer 0.1.4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Embed pieces: (B, F, 40) -> (B, 256)."""
        _, (hidden, _) = self.lstm(mel)
        raw = torch.relu(self.linear(hidden[-1]))
        return nn.functional.normalize(raw, dim=1, eps=1e-9)


def embed(audio: Floats) -> Floats:
    """Return the voice of a recording as a vector of length 1, (256,).

    Args:
        audio: (T,) at 16 kHz.

    Raises:
        MissingExtraError: resemblyzer is not installed.
        ModelError: its weights are not those of version 0.1.4.
    """
    level = 10 * np.log10(max(float(np.mean(np.square(audio, dtype=np.float64))), 1e-12)) if len(audio) else -120.0
    if level < LEVEL_DB:
        audio = (audio * 10 ** ((LEVEL_DB - level) / 20)).astype(np.float32)
    starts = piece_starts(len(audio))
    short = (starts[-1] + PARTIAL) * HOP - len(audio)
    padded = np.pad(audio, (0, max(0, short)))
    filters = mel_filters(SPEECH_RATE, N_FFT, N_MELS).T
    mel = np.concatenate([np.square(block) @ filters for block in magnitudes(padded, N_FFT, HOP)])
    pieces = np.stack([mel[start : start + PARTIAL] for start in starts])
    with torch.no_grad():
        embedded: Floats = _encoder()(torch.from_numpy(pieces)).numpy()
    mean = embedded.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), np.float32)


def piece_starts(n_samples: int) -> tuple[int, ...]:
    """Return the first frame of each piece of 1.6 s.

    Source: compute_partial_slices of Resemblyzer 0.1.4 with its default rate and coverage.
    """
    n_frames = -(-(n_samples + 1) // HOP)
    starts = list(range(0, max(1, n_frames - PARTIAL + STEP + 1), STEP))
    if len(starts) > 1 and (n_samples - starts[-1] * HOP) / (PARTIAL * HOP) < COVERAGE:
        starts.pop()
    return tuple(starts)


def speaker_similarity(ref: Floats, deg: Floats) -> float:
    """Return the cosine of two voices, 0 to 1; nan for a silent recording. Both (T,) at 16 kHz. Raises: as `embed`."""
    if not ref.any() or not deg.any():
        return float("nan")
    return float(embed(ref) @ embed(deg))


@functools.cache
def _encoder() -> VoiceEncoder:
    path = file_of_package("resemblyzer", "pretrained.pt", WEIGHTS_HASH, need="speaker similarity", alone=True)
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder = VoiceEncoder()
    encoder.load_state_dict({name: value for name, value in weights.items() if name.startswith(("lstm.", "linear."))})
    return encoder.eval()
