"""Colors as files mean them: embedded profiles, CMYK, LAB and other gammas, brought to sRGB."""

from __future__ import annotations

import functools
import io
from typing import Any

from PIL import Image

LARGEST_PROFILE = 1 << 22  # bytes
SRGB_GAMMA = 0.45455  # what PNG's gAMA says of files that are nearly sRGB
NEAR_GAMMA = 0.02
NEAR = 2  # grey levels by which a profile may differ from sRGB and be it
STEPS = 6  # of each channel, to compare a profile with sRGB
OTHER_SPACES = ("CMYK", "LAB", "YCbCr", "HSV")
# How the pixels were stored, in words; what `Header.color` may be.
WORDS = {
    "profile": "with a color profile other than sRGB, converted by it",
    "damaged": "with a color profile that cannot be read, taken as sRGB",
    "gamma": "with another gamma than sRGB's, converted",
    "CMYK": "in CMYK, converted to rgb",
    "LAB": "in LAB, converted to rgb",
    "YCbCr": "in YCbCr, converted to rgb",
    "HSV": "in HSV, converted to rgb",
}


def color_of(image: Image.Image) -> str:
    """How an open image's pixels are stored where that is not sRGB: a key of `WORDS`, or ""."""
    if image.mode in OTHER_SPACES:
        return image.mode
    icc = image.info.get("icc_profile")
    if icc:
        space = _space_of(image)
        found = _transform(icc, space) if space else None
        return "" if found is None else "damaged" if found == "damaged" else "profile"
    return "gamma" if _gamma(image) is not None else ""


def to_srgb(image: Image.Image) -> Image.Image:
    """`image` in sRGB: mode L, LA, RGB or RGBA where anything is converted; otherwise untouched.

    Relative colorimetric with black point compensation, as browsers do. CMYK without a profile is converted by
    pillow's formula, and a profile that cannot be read is skipped.
    """
    color = color_of(image)
    if color in ("", "damaged"):
        return image
    if color == "gamma":
        return _by_table(image)
    if color in ("YCbCr", "HSV"):
        return image.convert("RGB")
    if color in ("CMYK", "LAB"):
        found = _transform(image.info.get("icc_profile") or b"", color)
        return image.convert("RGB") if found in (None, "damaged") else _applied(image, found)
    space = _space_of(image)
    flat = _applied(image.convert(space), _transform(image.info["icc_profile"], space))
    return _with_alpha(flat.getchannel(0) if space == "L" else flat, image)


def _with_alpha(flat: Image.Image, image: Image.Image) -> Image.Image:
    """`flat` with the transparency that `image` has, if it has any."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        flat.putalpha(image.convert("RGBA").getchannel("A"))
    return flat


def _space_of(image: Image.Image) -> str:
    """The space that a profile of this image must be of: RGB, L (grey) or "" where there is none."""
    if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I"):
        return "L"
    return "RGB" if image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX") else ""


def _applied(image: Image.Image, transform: Any) -> Image.Image:
    from PIL import ImageCms

    flat = ImageCms.applyTransform(image, transform)
    assert flat is not None, "not in place"
    return flat


@functools.lru_cache(maxsize=64)
def _transform(icc: bytes, space: str) -> Any:
    """From a profile to sRGB, for pixels of this mode; None for sRGB itself, "damaged" for what is no such profile."""
    from PIL import ImageCms

    try:
        srgb = ImageCms.createProfile("sRGB")
        if space == "LAB":
            return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, "LAB", "RGB", **_how())
        if not icc:
            return None
        if len(icc) > LARGEST_PROFILE:
            return "damaged"
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space.strip() != {"L": "GRAY"}.get(space, space):
            return "damaged"
        made = ImageCms.buildTransform(profile, srgb, space, "RGB", **_how())
        return None if _is_srgb(made, space) else made
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "damaged"


def _how() -> dict[str, Any]:
    """Relative colorimetric, with black point compensation."""
    from PIL import ImageCms

    return {"renderingIntent": ImageCms.Intent.RELATIVE_COLORIMETRIC, "flags": ImageCms.Flags.BLACKPOINTCOMPENSATION}


def _is_srgb(transform: Any, space: str) -> bool:
    """Whether a transform hardly changes anything: told by what it does, for profiles are called all sorts of names."""
    if space == "CMYK":
        return False
    steps = [255 * step // (STEPS - 1) for step in range(STEPS)]
    if space == "L":
        pixels = bytes(range(256))
        out = _applied(Image.frombytes("L", (256, 1), pixels), transform).getchannel(0)
    else:
        pixels = bytes(value for r in steps for g in steps for b in steps for value in (r, g, b))
        out = _applied(Image.frombytes("RGB", (STEPS**3, 1), pixels), transform)
    return max(abs(a - b) for a, b in zip(pixels, out.tobytes(), strict=True)) <= NEAR


def _gamma(image: Image.Image) -> float | None:
    """The gamma that a PNG states, where it is not about sRGB's and nothing else says what the pixels are."""
    gamma = image.info.get("gamma")
    if "srgb" in image.info or not isinstance(gamma, float):
        return None
    return None if not 0.1 <= gamma <= 10 or abs(gamma - SRGB_GAMMA) < NEAR_GAMMA else gamma


def _by_table(image: Image.Image) -> Image.Image:
    """`image` from its gamma to sRGB's curve, its alpha untouched."""
    gamma = _gamma(image)
    assert gamma is not None, "color_of says so"
    table = [round(255 * _curve((value / 255) ** (1 / gamma))) for value in range(256)]
    space = _space_of(image)
    return _with_alpha(image.convert(space).point(table * len(space)), image)


def _curve(linear: float) -> float:
    """sRGB's curve, IEC 61966-2-1."""
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
