"""Training side by side: in every step of a segmentation network's training, torch's loss and ours agree at the same parameters."""

import runpy
from pathlib import Path

import pytest
import torch

import polyloss as pl
import polyloss.torch

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "docs/examples/segmentation.py"))


def function(logits, labels):
    return pl.softmax_loss(labels, logits, ignore_label=255)


@pytest.mark.parametrize(
    "loss",
    [polyloss.torch.CrossEntropyLoss(ignore_index=255), polyloss.torch.SoftmaxLoss(ignore_label=255), function],
    ids=["CrossEntropyLoss", "SoftmaxLoss", "function"],
)
def test_same_step(loss):
    """Curves of two trainings part by the last bits of a convolution, at this learning rate by 1e-3 after 25 steps; steps do not.

    torch's loss in float64 at the same logits is the truth: the mean is right to 4 eps, an entry of the gradient to 8 eps of itself and one
    eps of a pixel's largest share.
    """
    theirs = torch.nn.CrossEntropyLoss(ignore_index=255)
    eps = torch.finfo(torch.float32).eps

    def compared(logits, labels):
        exact = logits.detach().double().requires_grad_()
        truth = theirs(exact, labels)
        truth.backward()
        ours = loss(logits, labels)
        (gradient,) = torch.autograd.grad(ours, logits, retain_graph=True)
        torch.testing.assert_close(ours.double(), truth, rtol=4 * eps, atol=0)
        torch.testing.assert_close(gradient.double(), exact.grad, rtol=8 * eps, atol=eps / (labels != 255).sum().item())
        assert not gradient[(labels == 255)[:, None].expand_as(gradient)].any()
        return ours

    curve, _ = EXAMPLE["train"](compared, steps=25)
    assert curve[-1] < 0.5 * curve[0]  # and it learns


def test_border_is_labelled():
    _, labels = EXAMPLE["discs"](8, 32)
    assert set(labels.unique().tolist()) == {0, 1, 255}
