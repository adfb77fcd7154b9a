"""The loss of a language model's head, behind `linear_softmax`."""
