"""codec.quality.curve: the picture of quality against bitrate."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

from codec.quality.curve import Dot, Panel, Series, draw
from codec.quality.scores import Mean

SVG = "{http://www.w3.org/2000/svg}"


def series(name: str, *dots: tuple[float, float]) -> Series:
    return Series(name, tuple(Dot(1000 * kbps, Mean(value, value - 0.1, value + 0.1, 8)) for kbps, value in dots))


def test_the_picture_is_xml_with_a_mark_and_an_interval_for_every_point() -> None:
    lines = (series("mine <&>", (1, 1.3), (2, 1.5), (4, 1.8)), series("Lyra v2", (3.2, 2.4), (6, 2.9)))
    root = ET.fromstring(draw([Panel("pesq", lines), Panel("stoi", lines)]))
    assert len(root.findall(f".//{SVG}g")) == 2
    panel = root.find(f"{SVG}g")
    assert panel is not None
    assert len(panel.findall(f"{SVG}circle")) == 3
    assert len([path for path in panel.findall(f"{SVG}path") if path.get("class") == "bar s0"]) == 3
    assert "mine <&>" in [text.text for text in root.iter(f"{SVG}text")]


def names_in(drawn: str) -> list[tuple[str, float, float, float]]:
    """Text, and a box around it as wide as its letters: left, right, place of the line."""
    found = []
    for text in ET.fromstring(drawn).iter(f"{SVG}text"):
        if (text.get("class") or "").startswith("name"):
            label, x, y = str(text.text), float(text.get("x", "")), float(text.get("y", ""))
            wide = 6 * len(label)
            left = x - {"start": 0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "")]
            found.append((label, left, left + wide, y))
    return found


def test_each_line_has_its_name_beside_it_in_its_colour_and_no_legend() -> None:
    rising, flat = series("rising", (1, 1.3), (4, 3.8)), series("a long name of a codec", (1, 2.0), (4, 2.2))
    drawn = draw([Panel("pesq", (rising, flat))])
    names = names_in(drawn)
    assert [name for name, *_ in names] == ["rising", "a long name of a codec"]
    (_, left1, right1, y1), (_, left2, right2, y2) = names
    assert abs(y1 - y2) > 12 or right1 < left2 or right2 < left1
    assert all(left >= 0 and right <= 440 for _, left, right, _ in names)
    assert drawn.count(">rising<") == 1
    assert '<text class="name m1"' in drawn


def test_where_a_name_has_no_place_beside_its_line_a_legend_has_all() -> None:
    drawn = draw([Panel("pesq", (series("l" * 60 + "ong", (1, 2.0), (4, 2.2)), series("last", (1, 1.3), (4, 3.8))))])
    assert [name for name, *_ in names_in(drawn)] == ["last"]
    legend = [text.text for text in ET.fromstring(drawn).findall(f"{SVG}text")]  # outside the panel
    assert legend == ["l" * 60 + "ong", "last"]
    assert drawn.count("<circle") == 2 + 1  # two points, and the legend's


def test_the_bitrate_is_logarithmic_and_better_is_higher() -> None:
    drawn = draw([Panel("pesq", (series("a", (1, 1.0), (2, 2.0), (4, 4.0)),))])
    points = [tuple(map(float, xy)) for xy in re.findall(r'<circle class="m0" cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (x1, y1), (x2, y2), (x4, y4) = points
    assert math.isclose(x2 - x1, x4 - x2, abs_tol=0.2)
    assert math.isclose(y2 - y4, 2 * (y1 - y2), abs_tol=0.2)
    assert 0 < y4 < y2 < y1


def test_dark_paper_has_colours_of_its_own_and_nothing_is_loaded() -> None:
    drawn = draw([Panel("pesq", (series("a", (1, 1.0)),))])
    light, _, dark = drawn.partition("prefers-color-scheme:dark")
    assert ".s0{stroke:" in light
    assert ".s0{stroke:" in dark
    assert "href" not in drawn
    assert "<script" not in drawn


def test_unknown_scores_and_empty_panels_draw() -> None:
    unknown = Series("a", (Dot(1000.0, Mean(math.nan, math.nan, math.nan, 0)),))
    assert "nothing measured" in draw([Panel("pesq", (unknown,))])
    single = Series("a", (Dot(1000.0, Mean(2.0, math.nan, math.nan, 1)),))
    assert "nan" not in draw([Panel("pesq", (single,))])
    ET.fromstring(draw([]))
