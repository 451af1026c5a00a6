"""A small speech language model, end to end: tokenize a folder, train, sample, decode while the tokens come.

    pip install '.[tokens]'
    python examples/speech_lm/speech_lm.py SPEECH_FOLDER --out out/lm --minutes 2

SPEECH_FOLDER is any folder of speech, or one that `codec tokenize` wrote. A decoder-only transformer learns the delay
layout: at each step the sum of the embeddings of all codebooks goes in, one head for each codebook comes out. It is
small and learns for minutes: it gives speech-like sounds, no words. What it shows is the path. OUT gets `loss.csv`,
`loss.svg`, `continuation.wav` and its `spectrogram.png`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import codec
from codec.audiowriter import write
from codec.corpus.run import Options, tokenize
from codec.lm.dataset import TokenDataset
from codec.quality.spectrogram import picture
from codec.tokens import Delay


@dataclass(frozen=True)
class Config:
    """Sizes of the model and of its training."""

    dim: int = 192
    n_layers: int = 4
    n_heads: int = 4
    length: int = 192  # steps of a piece: a little under four seconds
    batch_size: int = 16
    rate: float = 2e-3  # the highest learning rate
    warmup: float = 0.05  # share of the time in which the rate rises


class Block(nn.Module):
    """Attention to the past, then a layer for each step."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.mix, self.out = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.wide = nn.Sequential(
            nn.Linear(config.dim, 4 * config.dim), nn.GELU(), nn.Linear(4 * config.dim, config.dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) to the same."""
        parts = self.mix(self.norm_1(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in parts)
        heard = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(heard.transpose(1, 2).flatten(2))
        return x + self.wide(self.norm_2(x))


class SpeechModel(nn.Module):
    """Tokens (B, Q, S) to logits (B, Q, S, vocabulary)."""

    def __init__(self, config: Config, n_codebooks: int, size: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, config.dim) for _ in range(n_codebooks))
        self.place = nn.Embedding(config.length, config.dim)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layers)))
        self.norm = nn.LayerNorm(config.dim)
        self.heads = nn.ModuleList(nn.Linear(config.dim, size) for _ in range(n_codebooks))
        for table in (*self.embed, self.place):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """One pass."""
        x = sum((embed(tokens[:, q]) for q, embed in enumerate(self.embed)), self.place.weight[: tokens.shape[-1]])
        x = self.norm(self.blocks(x))
        return torch.stack([head(x) for head in self.heads], 1)


def unigram_entropy(pieces: Tensor, held_out: Tensor, layout: Delay) -> float:
    """Nats per code of held-out pieces under the frequencies of each codebook (one added): what no context can beat."""
    found = []
    for q, size in enumerate(layout.ids.codebook_sizes):
        counts = torch.bincount(pieces[:, q].flatten(), minlength=layout.ids.size).double()[:size] + 1
        row = held_out[:, q].flatten()
        found.append(-(counts / counts.sum()).log()[row[row < size]])
    return float(torch.cat(found).mean())


def loss_of(model: SpeechModel, tokens: Tensor, n_codes: int) -> Tensor:
    """Mean nats per code; special tokens are no code and do not count."""
    logits, target = model(tokens[..., :-1]), tokens[..., 1:]
    target = target.masked_fill(target >= n_codes, -100)
    return functional.cross_entropy(logits.flatten(0, 2), target.flatten())


def train(model: SpeechModel, pieces: Tensor, held_out: Tensor, config: Config, seconds: float, n_codes: int) -> Any:
    """Train for so many seconds; rows of (step, seconds, loss, held-out loss)."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.rate, betas=(0.9, 0.95), weight_decay=0.1)
    generator, start, rows, step, sums = torch.Generator().manual_seed(0), time.monotonic(), [], 0, []
    while (spent := time.monotonic() - start) < seconds:
        done = spent / seconds
        rate = config.rate * min(done / config.warmup, 0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = pieces[torch.randint(len(pieces), (config.batch_size,), generator=generator)]
        loss = loss_of(model, batch, n_codes)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step, sums = step + 1, [*sums, loss.item()]
        if step % 20 == 0 or time.monotonic() - start >= seconds:
            with torch.inference_mode():
                rows.append((step, spent, sum(sums) / len(sums), float(loss_of(model, held_out, n_codes))))
            sums = []
            print("step {}  {:.0f} s  loss {:.3f}  held out {:.3f}".format(*rows[-1]), flush=True)
    return rows


@torch.inference_mode()
def sample(
    model: SpeechModel, prompt: Tensor, layout: Delay, n_steps: int, *, length: int, temperature: float = 0.9
) -> Iterator[Tensor]:
    """Columns (Q,) after a prompt (Q, S), one by one; the delay pattern allows codes only."""
    generator, tokens = torch.Generator().manual_seed(1), prompt
    sizes = torch.tensor(layout.ids.codebook_sizes)
    too_large = torch.arange(layout.ids.size) >= sizes[:, None]
    for _ in range(n_steps):
        logits = model(tokens[None, :, -length:])[0, :, -1].masked_fill(too_large, -math.inf)
        column = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        tokens = torch.cat((tokens, column), 1)
        yield column[:, 0]


def speak(codec_model: codec.Model, prompt: Tensor, columns: Iterator[Tensor], layout: Delay) -> np.ndarray:
    """Decode while the tokens come: a frame is whole, and heard, when its last codebook is there."""
    tokens, n_heard, heard = prompt, 0, []
    with codec_model.stream_decoder() as decoder:
        for column in columns:
            tokens = torch.cat((tokens, column[:, None]), 1)
            codes = layout.restore(tokens).codes[:, n_heard:].numpy()
            heard.append(decoder.feed(codes))
            n_heard += codes.shape[1]
        heard.append(decoder.flush())
    return np.concatenate(heard)


def curve(rows: Any, entropy: float) -> str:
    """The losses over time as an SVG picture: training black, held out blue, the unigram entropy dashed."""
    width, height, end = 600, 300, rows[-1][1]
    top, bottom = max(row[2] for row in rows) + 0.1, min(entropy, *(min(row[2:]) for row in rows)) - 0.1

    def points(column: int) -> str:
        return " ".join(
            f"{row[1] / end * width:.1f},{(top - row[column]) / (top - bottom) * height:.1f}" for row in rows
        )

    level = (top - entropy) / (top - bottom) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -20 {width + 20} {height + 50}" font-size="12" '
        f'font-family="sans-serif"><rect width="{width}" height="{height}" fill="none" stroke="#aaa"/>'
        f'<polyline points="{points(2)}" fill="none" stroke="black"/>'
        f'<polyline points="{points(3)}" fill="none" stroke="#06c" stroke-width="2"/>'
        f'<path d="M0 {level:.1f}H{width}" stroke="#c00" stroke-dasharray="6 4"/>'
        f'<text x="5" y="{level - 4:.1f}" fill="#c00">unigram entropy {entropy:.2f}</text>'
        f'<text x="0" y="{height + 20}">nats per code, {bottom:.2f} to {top:.2f}, over {end:.0f} seconds; '
        f"training black, held out blue ({rows[-1][3]:.2f} at the end)</text></svg>\n"
    )


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("speech")
    parser.add_argument("--out", type=Path, default=Path("out/lm"))
    parser.add_argument("--model", default="default_16k")
    parser.add_argument("--codebooks", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=4.0, help="of audio to sample")
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    config, folder = Config(), Path(options.speech)
    if not (folder / "index.json").exists():
        folder = options.out / "tokens"
        done = tokenize(options.speech, folder, Options(options.model, options.codebooks, workers=options.workers))
        print(f"{done.n_rows} utterances, {done.seconds / 60:.1f} minutes, {done.n_failures} failed")
    data = TokenDataset(folder, layout="delay", length=config.length)
    layout, n_codes = data.layout, data.layout.ids.n_code_ids
    assert isinstance(layout, Delay)
    pieces = torch.stack([item["tokens"] for item in data])
    n_held_out = max(1, len(pieces) // 20)
    held_out, pieces = pieces[:n_held_out][:32], pieces[n_held_out:]
    entropy = unigram_entropy(pieces, held_out, layout)
    model = SpeechModel(config, layout.ids.n_codebooks, layout.ids.size)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(pieces)} pieces of {config.length} steps, {n_parameters / 1e6:.1f} M parameters")
    print(f"unigram entropy {entropy:.3f} nats per code")
    rows = train(model, pieces, held_out, config, 60 * options.minutes, n_codes)
    lines = [f"{step},{spent:.1f},{loss:.4f},{held:.4f}" for step, spent, loss, held in rows]
    (options.out / "loss.csv").write_text("\n".join(["step,seconds,loss,held_out", *lines]) + "\n")
    codec_model = codec.load(options.model)
    first = next(iter(TokenDataset(folder, layout="delay", shuffle=False)))["tokens"][:, 1:]  # without audio_start
    prompt, n_steps = first[:, :100], round(options.seconds * codec_model.info.frame_rate)
    start = time.monotonic()
    audio = speak(codec_model, prompt, sample(model.eval(), prompt, layout, n_steps, length=config.length), layout)
    spent = time.monotonic() - start
    write(options.out / "continuation.wav", audio, codec_model.info.sample_rate, overwrite=True)
    print(f"{len(audio) / codec_model.info.sample_rate:.1f} s of audio in {spent:.1f} s, the first 2 s are the prompt")
    (options.out / "loss.svg").write_text(curve(rows, entropy))
    (options.out / "spectrogram.png").write_bytes(picture(audio, codec_model.info.sample_rate))
    print(f"held out {rows[-1][3]:.3f}, unigram entropy {entropy:.3f} nats per code")


if __name__ == "__main__":
    main()
