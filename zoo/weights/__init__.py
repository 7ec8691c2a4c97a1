"""Find and download weights, check their SHA-256, and read them without running code."""

from zoo.io.files import is_file
from zoo.weights.added import add, added, added_path, remove
from zoo.weights.checkpoint import Checkpoint, open_checkpoint
from zoo.weights.files import check_sha256, read_state_dict, tensors_sha256
from zoo.weights.hub import is_reachable
from zoo.weights.initial import LoadedWeights, describe, load
from zoo.weights.place import Place, places
from zoo.weights.retrieval import cache_path, fetch, obtain
from zoo.weights.verification import Verdict, verify

__all__ = [
    "Checkpoint",
    "LoadedWeights",
    "Place",
    "Verdict",
    "add",
    "added",
    "added_path",
    "cache_path",
    "check_sha256",
    "describe",
    "fetch",
    "is_file",
    "is_reachable",
    "load",
    "obtain",
    "open_checkpoint",
    "places",
    "read_state_dict",
    "remove",
    "tensors_sha256",
    "verify",
]
