"""Generated digits, 28 x 28, white on black: fonts of OpenCV, turned, sheared, scaled, shifted, blurred, with noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIDE = 28
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


def draw_digit(digit: int, generator: np.random.Generator) -> np.ndarray:
    """An image (28, 28) uint8 of a digit, another one at every call."""
    font = FONTS[generator.integers(len(FONTS))]
    thickness = int(generator.integers(2, 6))
    large = np.zeros((64, 64), np.uint8)
    (width, height), _ = cv2.getTextSize(str(digit), font, 1.5, thickness)
    cv2.putText(large, str(digit), (32 - width // 2, 32 + height // 2), font, 1.5, 255, thickness, cv2.LINE_AA)
    angle, shear = generator.uniform(-0.2, 0.2), generator.uniform(-0.2, 0.2)
    scale = generator.uniform(0.8, 1.1, 2) * SIDE / 42
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)
    shift = SIDE / 2 + generator.uniform(-2, 2, 2) - linear @ [32, 32]
    large = cv2.GaussianBlur(large, (0, 0), generator.uniform(0.7, 1.7))
    image = cv2.warpAffine(large, np.column_stack([linear, shift]), (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    noisy = image * generator.uniform(0.6, 1) + generator.normal(0, generator.uniform(0, 20), image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_digits(folder: Path, name: str, count: int, seed: int) -> Path:
    """Write images folder/name/*.png and the list folder/name.txt of lines "file label"; returns the list.

    Digits of all classes alike, in a random order; the same seed draws the same.
    """
    (folder / name).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % 10)
    for i, label in enumerate(labels):
        cv2.imwrite(str(folder / name / f"{i:05d}.png"), draw_digit(int(label), generator))
    listed = folder / f"{name}.txt"
    listed.write_text("".join(f"{i:05d}.png {label}\n" for i, label in enumerate(labels)))
    return listed
