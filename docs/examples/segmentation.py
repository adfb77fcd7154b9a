"""Train a small segmentation network twice, with torch's loss and with polyloss', and compare curves and times.

Images hold a bright disc on noise; pixels near its edge are labelled 255 and do not count, as in PASCAL VOC. The loss is the only line that
differs. Run it with ``python docs/examples/segmentation.py``.
"""

import argparse
import time
from statistics import median

import torch
from torch import nn

import polyloss.torch

IGNORED = 255


def discs(count, size, seed=0):
    """Images (count, 1, size, size) and labels (count, size, size): 1 in a disc, 0 outside, 255 on its border."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = size * (0.3 + 0.4 * torch.rand(count, 2, 1, 1, generator=generator))
    radius = size * (0.1 + 0.15 * torch.rand(count, 1, 1, generator=generator))
    distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt() - radius
    labels = (distance < 0).long()
    labels[distance.abs() < 1] = IGNORED
    noise = 0.5 * torch.randn(count, 1, size, size, generator=generator)
    return noise + (distance < 0).float()[:, None], labels


def network(classes, seed=0):
    """Three convolutions; the same first weights for the same seed."""
    torch.manual_seed(seed)
    middle = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*middle, nn.Conv2d(8, classes, 1))


def train(loss, steps, size=32, batch=4, classes=21):
    """The losses of the steps, and the seconds that the loss and its gradient took in each."""
    images, labels = discs(steps * batch, size)
    net = network(classes)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    curve, seconds = [], []
    for image, label in zip(images.split(batch), labels.split(batch), strict=True):
        scores = net(image)
        leaf = scores.detach().requires_grad_()  # so that the loss is timed apart from the network
        start = time.perf_counter()
        value = loss(leaf, label)
        value.backward()
        seconds.append(time.perf_counter() - start)
        optimizer.zero_grad()
        scores.backward(leaf.grad)
        optimizer.step()
        curve.append(value.item())
    return curve, seconds


def main():
    """Print both curves, and how long the losses took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    losses = {
        "torch": nn.CrossEntropyLoss(ignore_index=IGNORED),
        "polyloss": polyloss.torch.CrossEntropyLoss(ignore_index=IGNORED),
    }
    runs = {name: train(loss, options.steps, options.size) for name, loss in losses.items()}
    print("step  torch     polyloss")
    for step in range(0, options.steps, max(options.steps // 10, 1)):
        print(f"{step:4}  {runs['torch'][0][step]:.6f}  {runs['polyloss'][0][step]:.6f}")
    theirs, ours = (1000 * median(runs[name][1]) for name in losses)
    print(f"loss and gradient of a step: torch {theirs:.2f} ms, polyloss {ours:.2f} ms, {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
