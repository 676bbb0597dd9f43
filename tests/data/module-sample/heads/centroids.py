"""Nearest class centre on images, in NumPy alone: the module trains itself and returns predictions."""

import numpy as np


def predict(task):
    """Return probabilities of the test images and of the validation images, [n, classes] each."""
    classes = len(task.class_names)
    values = int(np.prod(task.train.inputs.shape[1:]))
    sums, counts = np.zeros((classes, values)), np.zeros(classes)
    for inputs, labels in task.train.batches(task.batch_size, seed=task.seed):
        np.add.at(sums, labels, inputs.reshape(len(inputs), -1))
        np.add.at(counts, labels, 1)
    centres = sums / np.maximum(counts, 1)[:, None]

    def probabilities(inputs):
        distances = np.linalg.norm(inputs.reshape(len(inputs), 1, -1) - centres, axis=2)
        weights = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / task.parameters["temperature"])
        return weights / weights.sum(axis=1, keepdims=True)

    test, validation = (
        np.concatenate([np.empty((0, classes)), *(probabilities(x) for x, _ in part.batches(64))])
        for part in (task.test, task.validation)
    )
    right = int((validation.argmax(axis=1) == task.validation.labels).sum())
    task.report(1, val_accuracy=right / max(1, len(validation)))
    return test, validation
