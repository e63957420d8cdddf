"""What the numbers of a decoded picture mean: everything becomes RGB with 8 bits, of sRGB's colours, on white."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

ROUNDING = 3  # of 255; by so much profiles of sRGB differ from each other


def in_srgb(image: Image.Image) -> Image.Image:
    """Return a picture with the colours that its profile means as numbers of sRGB; without one, they are that."""
    transform = _transform_of(image)
    if transform is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if _is_clear(image) else None
    converted = ImageCms.applyTransform(image.convert(_opaque_mode(image)), transform)
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    converted.info.pop("icc_profile", None)
    return converted


def is_foreign(image: Image.Image) -> bool:
    """Say whether a picture has a colour profile that fits it and means other colours than sRGB does."""
    return _transform_of(image) is not None


def _is_clear(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _opaque_mode(image: Image.Image) -> str:
    """Return the mode of a picture's colours without transparency and palette."""
    return {"RGBA": "RGB", "P": "RGB", "PA": "RGB", "LA": "L", "1": "L"}.get(image.mode, image.mode)


def _transform_of(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    profile = image.info.get("icc_profile")
    mode = _opaque_mode(image)
    return _transform(bytes(profile), mode) if profile and mode in ("RGB", "L", "CMYK") else None


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings a mode's numbers to sRGB; None of a profile that is unsound, unfit, or sRGB under any name."""
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(known, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    channels = np.meshgrid(*[steps] * {"RGB": 3, "L": 1, "CMYK": 4}[mode])
    colours = Image.merge(mode, [Image.fromarray(channel.reshape(len(steps), -1)) for channel in channels])
    shown = ImageCms.applyTransform(colours, transform)
    assert shown is not None
    difference = np.abs(np.asarray(shown, dtype=np.int16) - np.asarray(colours.convert("RGB"), dtype=np.int16))
    return transform if difference.max() > ROUNDING else None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture in RGB with 8 bits, of sRGB's colours; transparency becomes white."""
    image = in_srgb(image)
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip them to 8
        grey = np.asarray(image)
        shown = (grey.clip(0, 65535) // 257).astype(np.uint8)
        shown[grey == image.info.get("transparency", np.nan)] = 255  # the one shade that PNG's tRNS names
        image = Image.fromarray(shown)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info.pop("icc_profile", None)  # it has been heeded, or does not fit
    return image
