"""`codec models`: the models at hand, and those that can be downloaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import ModelError

if TYPE_CHECKING:
    from codec.hub.registry import Entry
    from codec.modelfolder import ModelFolder


def models(
    remote: Annotated[bool, typer.Option("--remote", help="Also those that are not here yet.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the models inside the package and the downloaded ones. With --remote also the other known ones."""
    from codec.config import to_dict  # not for --help
    from codec.hub import EMBEDDED, is_here, list_models, list_sources, registry
    from codec.modelfolder import read_model

    shown = [(name, EMBEDDED / name) for name in list_models()] + list_sources()
    failed = False
    for name, path in shown:
        try:
            folder = read_model(path)
        except ModelError as error:
            typer.echo(f"codec: {error}", err=True)
            failed = True
            continue
        facts = to_dict(folder.info) | {"load": name, "here": True, "extra": extra_of(folder)}
        typer.echo(json.dumps(facts) if as_json else describe(name, folder))
    known = registry().values() if remote else ()
    entries = [entry for entry in known if not is_here(entry)]
    for entry in entries:
        facts = to_dict(entry) | {"load": entry.name, "here": False}
        typer.echo(json.dumps(facts) if as_json else describe_remote(entry))
    if remote and not entries and not as_json:
        typer.echo("no other known models; hf://org/repo@revision loads any model of this format from a hub")
    raise typer.Exit(1 if failed else 0)


def extra_of(folder: ModelFolder) -> str | None:
    """The extra of neural-codec without which a model that is here does not run."""
    from codec.engine import is_wrapped

    return "interop" if is_wrapped(folder) else None if folder.has_graphs else "torch"


def describe(name: str, folder: ModelFolder) -> str:
    """One line of a model that is here."""
    info, extra = folder.info, extra_of(folder)
    rates = ", ".join(f"{info.bitrate_of(count) / 1000:.4g}" for count in info.prefixes)
    loudness = f", the first {info.loudness_codebooks} its loudness" if info.loudness_codebooks else ""
    stereo = " stereo" if info.audio_channels > 1 else ""
    return (
        f"{name}: {info.sample_rate} Hz{stereo}, {info.frame_rate:.4g} frames/s, up to {info.codebooks} codebooks of "
        f"{info.codebook_size}{loudness}, {rates} kbit/s, latency {info.latency * 1000:g} ms, "
        f"{sum(info.parameters.values()) / 1e6:.1f} M parameters, {info.licence or 'licence not stated'}, "
        f"weights {info.weights_hash[:12]}{f', needs neural-codec[{extra}]' if extra else ''}"
    )


def describe_remote(entry: Entry) -> str:
    """One line of a known model that is not here: what its registry states."""
    from codec.hub.fetch import short_size

    size = short_size(entry.size_bytes) if entry.size_bytes is not None else "size not stated"
    parts = [
        entry.about,
        f"by hand from {entry.source}" if entry.by_hand else entry.source,
        f"revision {entry.revision}" if entry.revision else "",
        size,
        entry.licence or "licence not stated",
        stated_hash(entry),
        f"needs neural-codec[{entry.extra}]" if entry.extra else "",
    ]
    return f"{entry.name}: {', '.join(part for part in parts if part)}"


def stated_hash(entry: Entry) -> str:
    """What a public source says of a model's SHA-256: of its model.json, or the first digits of its files'."""
    stated = [f"{place} {digest[:12]}" for place, digest in (entry.files or {}).items() if digest is not None]
    if entry.sha256 is not None:
        stated.append(f"model.json {entry.sha256[:12]}")
    return ", ".join(stated) or f"no hash stated{'' if entry.by_hand else ': recorded at the first download'}"
