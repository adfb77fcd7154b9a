"""The picture of the page on normalizations: two images with an ignored border, and what each normalizer divides by."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import polyloss as pl

IGNORED = 255
COLOURS = ListedColormap(["#dfe5ee", "#6d83ad", "#f0c9a0"])  # background, object, nobody's


def labels():
    """Two images of 8 × 8: a disc (1) on background (0), and between the two a border that nobody labelled."""
    y, x = np.mgrid[:8, :8]
    distance = np.stack([np.hypot(y - 3, x - 3) - 2.2, np.hypot(y - 4.5, x - 4) - 1.4])
    return np.where(np.abs(distance) < 0.5, IGNORED, (distance < 0).astype(int))


def draw():
    """The images once per normalizer, marked what it counts; below, the divisor, which is taken from the losses themselves."""
    y = labels()
    logits = np.zeros((2, 2, 8, 8))
    total = pl.softmax_loss(y, logits, ignore_label=IGNORED, normalization="none")
    _, rows = plt.subplots(2, 4, figsize=(8, 4.6), layout="constrained")
    for normalization, column in zip(("full", "valid", "batch_size", "none"), rows.T, strict=True):
        divisor = total / pl.softmax_loss(y, logits, ignore_label=IGNORED, normalization=normalization)
        for image, axes in zip(y, column, strict=True):
            axes.imshow(np.select([image == IGNORED, image == 1], [2, 1], 0), cmap=COLOURS, vmin=0, vmax=2)
            counted = {"full": image >= 0, "valid": image != IGNORED}.get(normalization, np.zeros_like(image, bool))
            axes.scatter(*np.nonzero(counted)[::-1], s=6, color="black")
            if normalization == "batch_size":
                axes.add_patch(plt.Rectangle((-0.5, -0.5), 8, 8, fill=False, linewidth=4, edgecolor="black", clip_on=False))
            axes.set(xticks=[], yticks=[], frame_on=False)
        column[0].set_title(f'"{normalization}"')
        column[1].set_xlabel(f"divides by {divisor:.0f}", fontsize=11)
