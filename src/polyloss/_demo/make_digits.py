"""Make digits.npz: what a logistic regression says about the held-out half of scikit-learn's digits.

The digits are 1797 images of 8 x 8 pixels from the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
UCI Machine Learning Repository, 1998, CC BY 4.0), which scikit-learn ships. ``python make_digits.py`` makes the file again, bit for bit
with the same scikit-learn; the one in the package was made with scikit-learn 1.9.1.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split


def make():
    """Labels (899,) and float32 logits (899, 10) of the held-out half."""
    images, labels = load_digits(return_X_y=True)
    seen, held_out, seen_labels, held_out_labels = train_test_split(images / 16, labels, test_size=0.5, random_state=0, stratify=labels)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(seen, seen_labels)
    return held_out_labels.astype(np.uint8), model.decision_function(held_out).astype(np.float32)


if __name__ == "__main__":
    labels, logits = make()
    np.savez_compressed(Path(__file__).with_name("digits.npz"), labels=labels, logits=logits)
