"""Download a run from a repository of the Hub, and verify it before it is in its place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import plugins
from zoo.errors import HubError, RunError, ZooError
from zoo.hub.client import check_name, client, translating
from zoo.integrity import verify
from zoo.io.files import expand
from zoo.io.parse import MAX_JSON, MAX_TOML
from zoo.runs.folder import check_space, folder_beside
from zoo.runs.parse import read_head
from zoo.runs.read import variant_of
from zoo.runs.write import CARD, CONFIG, METRICS, MODEL, PREDICTIONS, RECIPE, REPORT, files_of
from zoo.weights.hub import split_id

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo as Repository

#: The files of a run that are downloaded, with their greatest sizes in bytes. The JSON files are
#: those that the run's backbone has.
_LIMITS = {
    MODEL: 64 * 2**30,
    RECIPE: 4 * MAX_TOML,
    METRICS: MAX_JSON,
    CARD: MAX_JSON,
    PREDICTIONS: 2 * 2**30,
    REPORT: MAX_JSON,
}


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A run that was downloaded.

    Attributes:
        path: The run folder.
        commit: The commit that it is from.
        files: Size in bytes of each file, by name.
        left_out: Files of the repository that a run does not have; they were not downloaded.
        unchecked: Why files could not be checked, by name.
    """

    path: Path
    commit: str
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    unchecked: Mapping[str, str]


def pull(hub_id: str, out: str | Path | None = None) -> Pulled:
    """Download a run from the Hub into a new folder.

    Nothing of the repository is trusted: only files that a run has are downloaded, up to a size for
    each, and the run is verified before it is moved to its place.

    Args:
        hub_id: `OWNER/NAME`, or `OWNER/NAME@REVISION` with a branch, tag or commit.
        out: The folder, which must not exist. Default: `runs/NAME`, or the next free name.

    Raises:
        HubError: If there is no such repository or revision, it holds no run, a file is too large
            or wrong, or the transfer fails. Nothing is left behind.
        RunError: If the folder exists or can't be written, or the disk is too small.
    """
    name, revision = split_id(hub_id)
    check_name(name)
    place = _free_place(name, out)
    api = client()
    with translating(name):
        repository = api.model_info(name, revision=revision, files_metadata=True)
    sizes = _sizes(name, repository)
    check_space(place, str(place), sizes[MODEL] + 2**20)
    with folder_beside(place) as temporary:
        folder = temporary / "run"
        folder.mkdir()
        source = _Source(api=api, name=name, commit=str(repository.sha), folder=temporary)
        source.download(MODEL, sizes, folder)
        wanted = [*_LIMITS, *_json_files(folder / MODEL)]
        chosen = {file: sizes[file] for file in wanted if file in sizes}
        _check_sizes(name, chosen)
        others = [file for file in chosen if file != MODEL]
        check_space(place, str(place), sum(chosen[file] for file in others) + 2**20)
        for file in others:
            source.download(file, sizes, folder)
        findings = verify(folder)
        if wrong := [found for found in findings if found.state == "wrong"]:
            lines = "".join(f"\n  {found.file}: {found.detail}" for found in wrong)
            raise HubError(
                f"the run in {name} is not valid, and is not kept:{lines}",
                hint="ask its owner, or name another revision",
            )
        _move(folder, place)
    return Pulled(
        path=place,
        commit=source.commit,
        files=chosen,
        left_out=tuple(sorted(sizes.keys() - chosen.keys())),
        unchecked={found.file: found.detail for found in findings if found.state != "ok"},
    )


@dataclass(frozen=True)
class _Source:
    api: HfApi
    name: str
    commit: str
    folder: Path

    def download(self, file: str, sizes: Mapping[str, int], to: Path) -> None:
        """Download a file of the commit into the folder `to`."""
        with translating(self.name):
            # The client keeps files of its own in its folder.
            got = Path(
                self.api.hf_hub_download(
                    self.name, file, revision=self.commit, local_dir=self.folder / "download"
                )
            )
            size = got.stat().st_size
            if size != sizes[file]:
                raise HubError(
                    f"{file} of {self.name} has {size:,} bytes instead of {sizes[file]:,}",
                    hint="try again",
                )
            got.replace(to / file)


def _sizes(name: str, repository: Repository) -> dict[str, int]:
    """Return the size of each file of a repository, after checking those that each run has.

    Raises:
        HubError: If it holds no run, or one that is too large.
    """
    siblings = repository.siblings or ()
    sizes = {s.rfilename: s.size for s in siblings if s.size is not None}
    if missing := [file for file in (MODEL, RECIPE) if file not in sizes]:
        raise HubError(
            f"{name} holds no run of zoo: it has no {' and no '.join(missing)}",
            hint=f"a pretrained network is named by `backbone=hf-hub:{name}`",
        )
    _check_sizes(name, {MODEL: sizes[MODEL]})
    return sizes


def _check_sizes(name: str, sizes: Mapping[str, int]) -> None:
    for file, size in sizes.items():
        most = _LIMITS.get(file, MAX_JSON)
        if size > most:
            raise HubError(
                f"{file} of {name} has {size:,} bytes; no run has more than {most:,}",
                hint="it is not downloaded",
            )


def _json_files(model: Path) -> list[str]:
    """Return the names of the JSON files that belong to a model file."""
    info = read_head(model)[1]
    try:
        backbone = plugins.get(info.backbone, info.definition or None)
        return list(files_of(variant_of(backbone, info), info))
    except ZooError:
        # Its plugin is not installed; the run can be kept for when it is.
        return [CONFIG]


def _free_place(name: str, out: str | Path | None) -> Path:
    """Return the folder to write.

    Raises:
        RunError: If it exists.
    """
    if out is None:
        stem = name.partition("/")[2]
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        return next(path for each in names if not (path := Path("runs") / each).exists())
    place = expand(out)
    try:
        used = place.exists() and not (place.is_dir() and not any(place.iterdir()))
    except OSError as error:
        raise RunError(f"can't write {place}: {error.strerror}") from error
    if used:
        raise RunError(
            f"`out={place}` exists, and zoo never overwrites one",
            hint="give a folder that doesn't exist yet",
        )
    return place


def _move(folder: Path, place: Path) -> None:
    try:
        # An empty folder is replaced.
        folder.rename(place)
    except OSError as error:
        raise RunError(
            f"can't write {place}: {error.strerror}", hint="give a folder that doesn't exist yet"
        ) from error
