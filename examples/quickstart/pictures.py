"""The pictures that the quick-start model is trained and tested on: scikit-learn's bundled digits, scaled up.

Needs numpy and scikit-learn.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED, SIDE, TEST_SAMPLES = 7, 32, 300


def upscale(pictures):
    """Bilinear interpolation (pixel centres at half integers, edges repeated) of u4 pictures [n, 8, 8], values
    0..16, to u8 pictures [n, SIDE, SIDE], values 0..255."""
    source = pictures.shape[1]
    centre = np.clip((np.arange(SIDE) + 0.5) * source / SIDE - 0.5, 0, source - 1)
    distance = np.abs(centre[:, None] - np.arange(source)[None, :])
    weights = np.maximum(0.0, 1.0 - distance)  # [SIDE, source], rows sum to 1
    scaled = np.einsum("yi,nij,xj->nyx", weights, pictures, weights) * (255.0 / 16.0)
    return np.rint(scaled).astype(np.uint8)


def load_data():
    """Returns u8 pictures [n, SIDE, SIDE] and classes: train pictures, test pictures, train labels, test labels."""
    digits = load_digits()
    return train_test_split(
        upscale(digits.images), digits.target, test_size=TEST_SAMPLES, stratify=digits.target, random_state=SEED
    )


def as_input(pictures):
    """u8 [n, SIDE, SIDE] -> what the ONNX model is fed: float32 [n, 1, SIDE, SIDE], exactly pixel / 255."""
    return pictures[:, None].astype(np.float32) / np.float32(255)


def augment(pictures, rng):
    """Shifts each picture by up to two pixels in each direction, filling with background."""
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2)))
    corners = rng.integers(0, 5, size=(len(pictures), 2))
    return np.stack([p[y : y + SIDE, x : x + SIDE] for p, (y, x) in zip(padded, corners)])
