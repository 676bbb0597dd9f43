"""A card of the model in Markdown: what it is for, what it was made of, what it is worth, what to look out for.

After Mitchell et al. (2019), Model cards for model reporting; what only people can know is left for them to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..repeats import Trained

_MOST_CLASSES = 50
_PICTURES = {
    "curves.png": "Loss and accuracy",
    "confusion.png": "Confusion matrix",
    "worst_mistakes.png": "The surest mistakes on the test images",
    "doubtful_labels.png": "Training labels that other images contradict most",
    "learning_curve.png": "Accuracy of a linear probe with more and more training images",
}


def model_card(
    title: str,
    record: Mapping[str, Any],
    class_names: Sequence[str],
    train_counts: Sequence[int],
    trained: Trained,
    files: Sequence[str],
) -> str:
    """Write the card; `record` is reproducibility.json, `train_counts` the training images of each class."""
    spec, samples, evaluation = record["spec"], record["samples"], trained.evaluation
    dataset, base = spec.get("dataset", {}), spec.get("baseModel", {})
    weights = base.get("weights") or (base.get("weightsFrom") or {}).get("uri") or "imagenet"
    low, high = evaluation.interval
    parts = [
        f"# {_plain(title)}",
        f"An image classifier of {len(class_names):,} classes: {_made_of(spec, base)} with weights {_plain(weights)}.",
        "## Worth",
        _table(
            ("figure", "value"),
            [
                ("accuracy on the test images", f"{evaluation.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})"),
                ("always naming the commonest class", f"{evaluation.baseline:.4f}"),
                ("accuracy on the validation images", _validation(trained)),
                ("mean F1 of the classes", f"{evaluation.macro_f1:.4f}"),
                ("expected calibration error", f"{evaluation.calibration_error:.4f}"),
                ("loss", f"{evaluation.loss:.4f}"),
                *_repeats(trained.repeats),
            ],
        ),
        *_hints(trained),
        "## Classes",
        _classes(class_names, train_counts, trained),
        "## Data",
        f"{_plain(dataset.get('name') or dataset.get('uri'))}: {samples['train']:,} images for training, "
        f"{samples['validation']:,} for validation, {samples['test']:,} for the test.",
        "## Training",
        f"{len(trained.history.epochs)} epochs, of which epoch {trained.history.kept} is kept; seeds "
        f"{', '.join(map(str, record['seeds']))}. reproducibility.json has the whole spec, versions and digests.",
        *[f"![{words}]({name})" for name, words in _PICTURES.items() if name in files],
        "## For people to add",
        "What it is meant for and what not; who is in the images and who is missing; who to ask.",
    ]
    return "\n\n".join(parts) + "\n"


def _made_of(spec: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    name, tuned = _plain(base.get("name")), (spec.get("training") or {}).get("fineTune")
    if not tuned:
        return f"a head trained on features of a frozen {name}"
    return f"a head, and the last {tuned['layers']} layers of the base model trained with it, on {name}"


def _validation(trained: Trained) -> str:
    found = trained.history.kept_epoch.figures.get("val_accuracy")
    return "no validation images" if found is None else f"{found:.4f}"


def _repeats(repeats: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if repeats is None:
        return []
    words = f"{repeats['meanAccuracy']:.4f}, deviation {repeats['deviation']:.4f}"
    return [(f"mean accuracy of {repeats['n']} seeds", words)]


def _hints(trained: Trained) -> list[str]:
    """Say what a reader should not overlook."""
    evaluation, figures = trained.evaluation, trained.history.kept_epoch.figures
    found = []
    if evaluation.interval[0] <= evaluation.baseline:
        found.append("- Not certainly better than always naming the commonest class.")
    if figures["accuracy"] - evaluation.accuracy > 0.1:
        found.append(f"- Overfits: accuracy on the training images is {figures['accuracy']:.4f}.")
    if evaluation.calibration_error > 0.1:
        found.append("- Its probabilities are not to be taken at their word: see the calibration error.")
    if trained.history.kept == len(trained.history.epochs) > 1 and "val_loss" in figures:
        found.append("- The last epoch was the best one: more epochs may help.")
    return ["\n".join(found)] if found else []


def _classes(class_names: Sequence[str], train_counts: Sequence[int], trained: Trained) -> str:
    figures = list(zip(class_names, train_counts, trained.evaluation.classes))
    words = ""
    if len(figures) > _MOST_CLASSES:
        figures = sorted(figures, key=lambda one: one[2].f1)[:_MOST_CLASSES]
        words = f"The {_MOST_CLASSES} with the lowest F1; metrics.json has all.\n\n"
    rows = [
        (
            _plain(name), f"{count:,}", f"{one.images:,}",
            f"{one.precision:.4f}", f"{one.recall:.4f}", f"{one.f1:.4f}",
        )
        for name, count, one in figures
    ]  # fmt: skip
    return words + _table(("class", "training images", "test images", "precision", "recall", "F1"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(value: object) -> str:
    """Keep a user's words from being read as Markdown or HTML."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    for char in "\\`*_{}[]<>#|!&":
        text = text.replace(char, "\\" + char) if char != "&" else text.replace("&", "&amp;")
    return text
