"""What the numbers of a decoded picture mean: everything becomes RGB with 8 bits, of sRGB's colours, on white."""

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageCms


def in_srgb(image: Image.Image) -> Image.Image:
    """Return a picture with the colours that its profile means as numbers of sRGB; without one, they are that."""
    if (profile := foreign_profile(image)) is None:
        return image
    clear = image.mode in ("RGBA", "PA") or "transparency" in image.info
    if image.mode in ("P", "PA") or (clear and image.mode == "RGB"):
        image = image.convert("RGBA" if clear else "RGB")
    mode: Literal["RGBA", "RGB"] = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, ValueError):  # a profile of other colours than the picture has
        return image
    assert converted is not None
    converted.info.pop("icc_profile", None)
    return converted


def foreign_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the colour profile of a picture with 8 bits, if it has a sound one that is not sRGB."""
    data = image.info.get("icc_profile")
    if not data or image.mode.startswith(("I", "F")):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        return None if "sRGB" in ImageCms.getProfileDescription(profile) else profile
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture in RGB with 8 bits, of sRGB's colours; transparency becomes white."""
    image = in_srgb(image)
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip them to 8
        grey = np.asarray(image, dtype=np.float64)
        clear = grey == image.info.get("transparency", np.nan)  # the one shade that PNG's tRNS names
        image = Image.fromarray(np.where(clear, 255, grey / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
