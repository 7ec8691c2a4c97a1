"""Prediction on a Ray cluster: a class for Ray Data, and the job of `zoo predict` (extra `ray`)."""

from zoo.ray.predictor import Predictor

__all__ = ["Predictor"]
