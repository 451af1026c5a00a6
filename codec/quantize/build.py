"""The bottlenecks by name.

>>> build_bottleneck(Part("residual", {"n_codebooks": 8}), latent_dim=64).n_codebooks
8
"""

from __future__ import annotations

from typing import Any

from codec.config import Part, from_dict
from codec.errors import ConfigError
from codec.quantize.attributes import Attributes, AttributesConfig
from codec.quantize.base import Bottleneck
from codec.quantize.cross_scale import CrossScale, CrossScaleConfig
from codec.quantize.factorised import Factorised, FactorisedConfig
from codec.quantize.grouped import Grouped, GroupedConfig
from codec.quantize.masked import Masked, MaskedConfig
from codec.quantize.projected import Projected, ProjectedConfig
from codec.quantize.residual import Residual, ResidualConfig
from codec.quantize.split import Split, SplitConfig
from codec.quantize.vq import VectorQuantizer, VqConfig

# kind -> its options and its class, made as cls(options, latent_dim)
BOTTLENECKS: dict[str, tuple[type[Any], type[Bottleneck]]] = {
    "attributes": (AttributesConfig, Attributes),
    "cross_scale": (CrossScaleConfig, CrossScale),
    "factorised": (FactorisedConfig, Factorised),
    "grouped": (GroupedConfig, Grouped),
    "masked": (MaskedConfig, Masked),
    "projected": (ProjectedConfig, Projected),
    "residual": (ResidualConfig, Residual),
    "split": (SplitConfig, Split),
    "vq": (VqConfig, VectorQuantizer),
}


def build_bottleneck(part: Part, latent_dim: int) -> Bottleneck:
    """The bottleneck of a model configuration.

    Raises:
        ConfigError: an unknown kind or option.
    """
    if part.kind not in BOTTLENECKS:
        raise ConfigError(f"bottleneck.kind: unknown {part.kind!r}; known are {', '.join(sorted(BOTTLENECKS))}")
    options, cls = BOTTLENECKS[part.kind]
    bottleneck: Bottleneck = cls(from_dict(options, part.options, where="bottleneck.options"), latent_dim)
    return bottleneck
