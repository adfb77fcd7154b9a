"""Training side by side: a segmentation network on images with an ignored border learns the same with torch's loss and with ours."""

import runpy
from pathlib import Path

import pytest
import torch

import polyloss as pl
import polyloss.torch

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "docs/examples/segmentation.py"))


@pytest.fixture(scope="module")
def theirs():
    curve, _ = EXAMPLE["train"](torch.nn.CrossEntropyLoss(ignore_index=255), steps=25)
    assert curve[-1] < 0.5 * curve[0]
    return curve


def function(logits, labels):
    return pl.softmax_loss(labels, logits, ignore_label=255)


@pytest.mark.parametrize(
    "loss",
    [polyloss.torch.CrossEntropyLoss(ignore_index=255), polyloss.torch.SoftmaxLoss(ignore_label=255), function],
    ids=["CrossEntropyLoss", "SoftmaxLoss", "function"],
)
def test_same_curve(loss, theirs):
    curve, _ = EXAMPLE["train"](loss, steps=25)
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(theirs), rtol=1e-5, atol=1e-5)


def test_border_is_labelled():
    _, labels = EXAMPLE["discs"](8, 32)
    assert set(labels.unique().tolist()) == {0, 1, 255}
