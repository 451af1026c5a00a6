"""Codes to the token ids of a language model and back: vocabulary offsets, special tokens, layouts with exact inverses.

>>> import numpy as np
>>> ids = TokenIds((1024, 1024), first=32000)
>>> layout = make_layout("frame", ids)
>>> layout.arrange(np.array([[1, 2, 3], [4, 5, 6]]))
array([32001, 33028, 32002, 33029, 32003, 33030])
>>> layout.restore(layout.arrange(np.array([[1, 2, 3], [4, 5, 6]]))).codes
array([[1, 2, 3],
       [4, 5, 6]])
"""

from codec.tokens.base import Layout, Restored
from codec.tokens.build import APART, LAYOUTS, make_layout, parse_layout
from codec.tokens.flat import MultiRate, Sections, join_levels, split_levels
from codec.tokens.grid import Delay, Depth, Parallel
from codec.tokens.ids import SPECIALS, TokenIds

__all__ = [
    "APART",
    "LAYOUTS",
    "SPECIALS",
    "Delay",
    "Depth",
    "Layout",
    "MultiRate",
    "Parallel",
    "Restored",
    "Sections",
    "TokenIds",
    "join_levels",
    "make_layout",
    "parse_layout",
    "split_levels",
]
