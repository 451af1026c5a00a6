"""What the numbers of a recipe may be: a wrong one is named before a run begins, not in the middle of it.

>>> from dataclasses import make_dataclass
>>> check_numbers("run", make_dataclass("Run", ["keep"])(0), {"keep": (1, MANY)})
Traceback (most recent call last):
codec.errors.ConfigError: run.keep: must be from 1 to 1e+09, found 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codec.errors import ConfigError

MANY = 1e9  # more than anybody means, and finite
SHARE, BELOW_ONE, AT_LEAST_0, AT_LEAST_1 = (0.0, 1.0), (0.0, 0.999999), (0.0, MANY), (1.0, MANY)
PARTS = ("encoder", "bottleneck", "decoder")


def check_numbers(where: str, config: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a field with a number outside its limits; NaN is outside. Raises: ConfigError."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                raise ConfigError(f"{where}.{name}: must be from {low:g} to {high:g}, found {value}")


def check_rising(where: str, pair: tuple[float, float]) -> None:
    """Refuse a range that ends before it begins. Raises: ConfigError."""
    if pair[0] > pair[1]:
        raise ConfigError(f"{where}: the lower end comes first, found {list(pair)}")


def check_parts(where: str, parts: Sequence[str]) -> None:
    """Refuse words that name no part of a network. Raises: ConfigError."""
    wrong = sorted(set(parts) - set(PARTS))
    if wrong:
        raise ConfigError(f"{where}: unknown {wrong[0]!r}; known are {', '.join(PARTS)}")


def check_levels(levels: Mapping[str, float]) -> None:
    """Refuse what are no numbers of codebooks with their shares. Raises: ConfigError."""
    counts = all(str(count).isdecimal() and int(count) for count in levels)
    if levels and not (counts and all(0 <= x <= MANY for x in levels.values()) and sum(levels.values()) > 0):
        raise ConfigError(
            f"optim.levels: expected codebooks: share, for example {{2: 0.25, 4: 0.75}}, found {dict(levels)}"
        )


def check_batch(batch: int, accumulate: int) -> None:
    """Refuse a batch that has no so many equal parts. Raises: ConfigError."""
    if batch % accumulate:
        raise ConfigError(f"optim.accumulate: a batch of {batch} has no {accumulate} equal parts; see data.batch")
