"""Vocos for EnCodec's codes at 24 kHz: EnCodec's encoder and codebooks, and a decoder at the frame rate.

The published `pytorch_model.bin`, beside a `config.yaml`, holds the decoder and the codebooks alone; the encoder is
EnCodec's own, so its `encodec_24khz-....th` must lie in the same folder. The decoder's norms have a scale and a shift
for each of four bitrates (1.5, 3, 6 and 12 kbit/s); kept are those of 6, eight codebooks.

Source: Siuzdak 2023 (Vocos); the layout of keys as in the packages `vocos` 0.1.0 and `encodec` 0.1.1.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from codec.config import Part
from codec.convert.encodec import LICENCE, RULES, read_encodec
from codec.convert.state import Converted, Rules, State, read_state, translate
from codec.errors import ModelError

BITRATE, N_CODEBOOKS = 2, 8  # which of the four conditions, and EnCodec's codebooks at it
BOOKS = "feature_extractor.codebook_weights"  # all codebooks, one below the other
BLOCK = r"decoder\.layers\.0\.layers\.2\.layers\.(\d+)\.body\.layers\."
DECODER: Rules = (
    (r"decoder\.layers\.0\.layers\.0\.conv\.(.*)", r"backbone.embed.\1"),
    (r"decoder\.layers\.0\.layers\.1\.norm\.(.*)", r"backbone.norm.\1"),
    (BLOCK + r"0\.conv\.(.*)", r"backbone.convnext.\1.dwconv.\2"),
    (BLOCK + r"1\.norm\.(.*)", r"backbone.convnext.\1.norm.\2"),
    (BLOCK + r"2\.linear\.(.*)", r"backbone.convnext.\1.pwconv1.\2"),
    (BLOCK + r"4\.linear\.(.*)", r"backbone.convnext.\1.pwconv2.\2"),
    (BLOCK + r"5\.scale", r"backbone.convnext.\1.gamma"),
    (r"decoder\.layers\.0\.layers\.3\.norm\.(.*)", r"backbone.final_layer_norm.\1"),
    (r"decoder\.layers\.0\.layers\.4\.linear\.(.*)", r"head.out.\1"),
)
NEEDED = ("backbone.embed.weight", "backbone.convnext.0.pwconv1.weight", "head.out.weight")


def convert_vocos(path: Path) -> Converted:
    """The folder with Vocos's `pytorch_model.bin` and EnCodec's `.th`.

    Raises:
        ModelError: a file that is missing, damaged or of another system, or codebooks that are not EnCodec's.
    """
    theirs = path if path.is_dir() else path.parent
    files = sorted(theirs.glob("*.th"))
    if len(files) != 1:
        raise ModelError(
            f"{theirs}: {len(files)} files .th; EnCodec's encodec_24khz-....th must lie beside the weights"
        )
    state, (encodec, config) = read_state(path), read_encodec(files[0])
    for key in (*NEEDED, BOOKS):
        if key not in state:
            raise ModelError(f"{path}: not the state dict of Vocos for EnCodec's codes (no {key})")
    names = [f"quantizer.vq.layers.{i}._codebook.embed" for i in range(N_CODEBOOKS)]
    known = torch.cat([encodec[name] for name in names if name in encodec])
    if not torch.equal(state[BOOKS][: len(known)], known) or len(names) * len(encodec[names[0]]) != len(known):
        raise ModelError(f"{path}: its codebooks are not those of {files[0].name}")
    kept = {key: x for key, x in encodec.items() if key.startswith("encoder.") or key in names}
    kept |= plain_norms({key: x for key, x in state.items() if key != BOOKS}, BITRATE)
    size = {"n_codebooks": N_CODEBOOKS, "codebook_size": len(encodec[names[0]])}
    config = replace(config, bottleneck=Part("residual", size), decoder=vocos_part(state))
    rules = (*DECODER, *RULES["authors"])
    return Converted(config, translate(kept, config, rules, where=path, ignored=(r"head\.istft\.window",)), LICENCE)


def plain_norms(state: State, condition: int) -> State:
    """Norms with a scale and a shift for each condition become plain ones, of one of them."""
    plain = {}
    for key, x in state.items():
        norm = re.fullmatch(r"(backbone\..*norm)\.(scale|shift)\.weight", key)
        if norm:
            plain[f"{norm[1]}.{'weight' if norm[2] == 'scale' else 'bias'}"] = x[condition]
        else:
            plain[key] = x
    return plain


def vocos_part(state: State) -> Part:
    """The decoder of the sizes that the tensors show."""
    dim, _, kernel_size = state["backbone.embed.weight"].shape
    blocks = {key.split(".")[2] for key in state if key.startswith("backbone.convnext.")}
    return Part(
        "vocos",
        {
            "dim": dim,
            "hidden_dim": len(state["backbone.convnext.0.pwconv1.weight"]),
            "n_blocks": len(blocks),
            "kernel_size": kernel_size,
            "n_fft": len(state["head.out.weight"]) - 2,
        },
    )
