"""A prediction as plain values for JSON: what `zoo predict` prints and `zoo serve` answers."""

from __future__ import annotations

from zoo.runs.read import Prediction


def answer(prediction: Prediction, *, several: bool, sets: bool) -> dict[str, object]:
    """Return the fields of a prediction.

    Args:
        prediction: Of one image.
        several: Whether the run is multi-label: `labels` instead of `label`.
        sets: Whether prediction sets are asked for: `label_set`.
    """
    label = None if prediction.unsure else prediction.label
    familiar = prediction.familiar
    sure = {"label": label, "probability": prediction.probability, "unsure": prediction.unsure}
    return {
        **({"labels": prediction.labels} if several else sure),
        **({"label_set": prediction.label_set} if sets else {}),
        "unfamiliar": None if familiar is None else not familiar,
        "distance": prediction.distance,
        "top": [{"label": name, "probability": p} for name, p in prediction.top],
    }
