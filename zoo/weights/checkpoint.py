"""Checkpoints that a name refers to: a Hugging Face Hub repository, or a local folder like one."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.backbone import Weights
from zoo.errors import WeightsError, WeightsUnavailableError
from zoo.io.files import expand, is_file
from zoo.io.parse import MAX_JSON, parse_json, read_bounded
from zoo.weights.hub import hub_file, split_id
from zoo.weights.retrieval import HUB_FILES

#: Prefixes of the names of checkpoints, the same as timm's.
HUB, LOCAL = "hf-hub:", "local-dir:"

#: Keys of config.json with an entry for each class, of which only the number is needed.
_LABELS = ("id2label", "label2id", "label_names", "label_descriptions", "labels")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A pretrained network with its configuration, in the layout of a Hub repository.

    Attributes:
        name: `hf-hub:OWNER/NAME@COMMIT`, with the full hash of the commit, or `local-dir:PATH`,
            with an absolute path.
        config: Contents of config.json, without the names of the classes; `num_labels` is their
            number if it lists them.
        preprocessor: Contents of preprocessor_config.json; empty if there is none.
        license: Licence from the model card, None if not stated.
    """

    name: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None

    @property
    def weights(self) -> Weights:
        """Where the weights are, with `sha256` unknown: the commit identifies them."""
        classes = self.config.get("num_classes", self.config.get("num_labels"))
        about: dict[str, Any] = {
            "license": self.license,
            "num_classes": classes if type(classes) is int else None,
        }
        if self.name.startswith(HUB):
            hub_id = self.name.removeprefix(HUB)
            return Weights(hub=hub_id, tag=split_id(hub_id)[1], **about)
        folder = Path(self.name.removeprefix(LOCAL))
        files = [folder / file for file in HUB_FILES]
        file = next(filter(is_file, files), files[0])
        return Weights(path=str(file), **about)

    @property
    def definition(self) -> dict[str, Any]:
        """All but the name, as data: `zoo.Backbone.definition` of a backbone made of it."""
        return {
            "config": dict(self.config),
            "preprocessor": dict(self.preprocessor),
            "license": self.license,
        }


def open_checkpoint(name: str, definition: Mapping[str, Any] | None = None) -> Checkpoint | None:
    """Return the checkpoint of that name; None if the name is not that of a checkpoint.

    Args:
        name: `hf-hub:OWNER/NAME`, `hf-hub:OWNER/NAME@REVISION` or `local-dir:PATH`.
        definition: `Checkpoint.definition` of an earlier call, from which the checkpoint is
            returned without any access to the Hub or the folder.

    Raises:
        WeightsUnavailableError: If there is no such repository, revision or folder, access is
            refused, or the Hub can't be reached and its cache has no configuration.
        WeightsError: If its configuration can't be understood.
    """
    if not name.startswith((HUB, LOCAL)):
        return None
    if definition is not None:
        return _from_definition(name, definition)
    return _open_hub(name) if name.startswith(HUB) else _open_folder(name)


def _from_definition(name: str, definition: Mapping[str, Any]) -> Checkpoint:
    config, preprocessor = definition.get("config"), definition.get("preprocessor")
    licence = definition.get("license")
    if not (
        isinstance(config, dict)
        and isinstance(preprocessor, dict)
        and isinstance(licence, str | None)
    ):
        raise WeightsError(f"the definition of {name} has no config and preprocessor")
    return Checkpoint(name=name, config=config, preprocessor=preprocessor, license=licence)


@functools.cache
def _open_hub(name: str) -> Checkpoint:
    hub_id = name.removeprefix(HUB)
    # Each plugin that is asked shares what was read; a branch is looked up once per process.
    try:
        config = hub_file(hub_id, ("config.json",), current=True)
    except WeightsUnavailableError as error:
        advice = f"`zoo weights fetch {name}` where there is a network, then copy the Hub's cache"
        raise WeightsUnavailableError(
            f"{name} can't be opened: {error.text}", hint=error.hint or advice
        ) from error
    # The Hub's cache keeps the files of a commit in a folder of that name.
    pinned = f"{split_id(hub_id)[0]}@{config.parent.name}"
    return _read(
        f"{HUB}{pinned}",
        config,
        _hub_file_if_any(pinned, "preprocessor_config.json"),
        _hub_file_if_any(pinned, "README.md"),
    )


def _hub_file_if_any(hub_id: str, file: str) -> Path | None:
    try:
        return hub_file(hub_id, (file,))
    except WeightsUnavailableError:
        return None


def _open_folder(name: str) -> Checkpoint:
    folder = Path(os.path.realpath(expand(name.removeprefix(LOCAL))))
    if not is_file(folder / "config.json"):
        raise WeightsUnavailableError(f"there is no config.json in {folder}")
    optional = (folder / "preprocessor_config.json", folder / "README.md")
    others = [file if is_file(file) else None for file in optional]
    return _read(f"{LOCAL}{folder}", folder / "config.json", *others)


def _read(name: str, config: Path, preprocessor: Path | None, card: Path | None) -> Checkpoint:
    return Checkpoint(
        name=name,
        config=_without_labels(_read_object(config)),
        preprocessor={} if preprocessor is None else _read_object(preprocessor),
        license=None if card is None else _license(card),
    )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bounded(file, MAX_JSON))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} holds no JSON object")
    return content


def _without_labels(config: dict[str, Any]) -> dict[str, Any]:
    """Return config.json without the names of classes: of 21,843, they would be most of a run."""
    short = {key: value for key, value in config.items() if key not in _LABELS}
    if isinstance(labels := config.get("id2label"), dict):
        short["num_labels"] = len(labels)
    if isinstance(nested := config.get("pretrained_cfg"), dict):
        short["pretrained_cfg"] = {k: v for k, v in nested.items() if k not in _LABELS}
    return short


def _license(card: Path) -> str | None:
    from huggingface_hub import metadata_load

    try:
        stated = (metadata_load(card) or {}).get("license")
    except Exception:  # noqa: BLE001  a model card is text that anyone wrote, in YAML
        return None
    return stated if isinstance(stated, str) else None
