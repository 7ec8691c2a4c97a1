"""Publish a run on the Hugging Face Hub, and download one, through the Hub's own client."""

from zoo.hub.pull import Pulled, pull
from zoo.hub.push import Pushed, Upload, prepared, push

__all__ = ["Pulled", "Pushed", "Upload", "prepared", "pull", "push"]
