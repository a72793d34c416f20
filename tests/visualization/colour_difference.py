"""Perceived differences of colours: CIE ΔE2000, also as people with deuteranopia see them."""

from __future__ import annotations

import numpy as np

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
# Linear RGB as people without M cones see it.
MACHADO = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
VIENOT = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])


def to_lab(colours: np.ndarray, simulation: np.ndarray | None = None) -> np.ndarray:
    """Convert sRGB colours [C,3] uint8 to CIELAB, seen through a simulation of a colour blindness."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if simulation is not None:
        linear = (linear @ simulation.T).clip(0, 1)
    relative = linear @ _TO_XYZ.T / _WHITE
    x, y, z = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def ciede2000(one: np.ndarray, two: np.ndarray) -> float:
    """Return ΔE2000 of two CIELAB colours [3], as in Sharma et al., 2005."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1 + 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25**7)))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    step = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(step / 2))
    middle = h1 + h2 if c1 * c2 == 0 else h1 + step / 2
    chroma, light = (c1 + c2) / 2, (l1 + l2) / 2
    weight = 1.0
    for factor, multiple, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63)):
        weight += factor * np.cos(np.radians(multiple * middle + shift))
    turn = 60 * np.exp(-((((middle % 360) - 275) / 25) ** 2))
    rotation = -np.sin(np.radians(turn)) * 2 * np.sqrt(chroma**7 / (chroma**7 + 25**7))
    lightness = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    saturation, tone = (c2 - c1) / (1 + 0.045 * chroma), hue / (1 + 0.015 * chroma * weight)
    return float(np.sqrt(lightness**2 + saturation**2 + tone**2 + rotation * saturation * tone))


def least_difference(colours: np.ndarray, simulation: np.ndarray | None = None) -> float:
    """Return the smallest ΔE2000 of two of the colours, [C,3] uint8."""
    lab = to_lab(colours, simulation)
    return min(ciede2000(one, two) for index, one in enumerate(lab) for two in lab[index + 1 :])
