"""Upload a run to a repository of the Hub, in one commit."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import HubError, RunError
from zoo.hub.client import check_name, client, translating
from zoo.hub.staging import check_run, stage
from zoo.io.files import expand
from zoo.io.text import clip, listed
from zoo.runs.card import Published
from zoo.runs.folder import check_space
from zoo.runs.parse import read_head
from zoo.runs.read import model_file
from zoo.runs.write import CARD, MODEL, PREDICTIONS, RECIPE, REPORT

#: Files that a new repository may have, and that a run replaces or keeps.
_OF_THE_HUB = frozenset({".gitattributes", CARD, "LICENSE"})

#: Files of an earlier version of a run, which don't belong to other weights.
_OF_WEIGHTS = frozenset({PREDICTIONS, REPORT})


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What is going to be uploaded.

    Attributes:
        repository: `OWNER/NAME`.
        endpoint: Address of the Hub.
        folder: A temporary folder with the files.
        files: Size in bytes of each file, by name.
        left_out: Why files of the run are not uploaded, by name.
        public: Whether a new repository is public.
        license: Licence that the card states; None for none.
        message: Message of the commit.
    """

    repository: str
    endpoint: str
    folder: Path
    files: Mapping[str, int]
    left_out: Mapping[str, str]
    public: bool
    license: str | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Existing:
    """A repository that exists."""

    commit: str | None
    public: bool
    files: tuple[str, ...] = field(repr=False)
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """An upload that has succeeded."""

    url: str
    commit: str


@contextmanager
def prepared(
    run: str | Path,
    repository: str,
    *,
    public: bool = False,
    license: str | None = None,
    datasets: Sequence[str] = (),
    with_predictions: bool = False,
    with_report: bool = False,
) -> Iterator[Upload]:
    """Context in which a run is ready to be uploaded; without access to the Hub.

        with prepared("runs/bugs", "me/bugs") as upload:
            push(upload)

    The run is verified, and its files are copied without the paths and images of this machine; see
    `zoo.hub.staging.stage`. The run itself is not changed.

    Args:
        run: A finished run folder.
        repository: `OWNER/NAME`.
        public: Whether the repository is to be public.
        license: Licence of the model for the card, as the Hub names it. Default: that of the
            pretrained weights, if it is known.
        datasets: Ids of datasets on the Hub that it was trained on, for the card.
        with_predictions: Whether to upload predictions.parquet, which has the names of images.
        with_report: Whether to upload report.html, which shows images and names paths.

    Yields:
        What is going to be uploaded.

    Raises:
        RunError: If the run is damaged or not finished, or the disk is full.
        HubError: If the name of the repository is not valid.
    """
    from huggingface_hub import constants

    check_name(repository)
    path = expand(run)
    check_run(path)
    published = Published(repository=repository, license=license, datasets=tuple(datasets))
    check_space(Path(tempfile.gettempdir()), "a copy of the run", _size(path) + 2**20)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="zoo-push-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RunError(f"can't make a temporary folder: {error.strerror}") from error
    with temporary as name:
        folder = Path(name)
        stated, left_out = stage(
            path, folder, published, predictions=with_predictions, report=with_report
        )
        info = read_head(folder / MODEL)[1]
        yield Upload(
            repository=repository,
            endpoint=constants.ENDPOINT,
            folder=folder,
            files={each.name: each.stat().st_size for each in sorted(folder.iterdir())},
            left_out=left_out,
            public=public,
            license=stated,
            message=clip(f"{info.backbone}, {info.stage}, {info.score_text}"),
        )


def _size(run: Path) -> int:
    try:
        return model_file(run).stat().st_size
    except OSError as error:
        raise RunError(f"can't read {run}: {error.strerror}") from error


def inspect(upload: Upload) -> Existing | None:
    """Return the repository if it exists, and check that the upload may replace its content.

    Raises:
        HubError: If it can't be read, has other content than a run, or is public while the upload
            is not.
    """
    from huggingface_hub import errors

    api = client()
    with translating(upload.repository):
        try:
            found = api.model_info(upload.repository)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            return None
    files = tuple(sibling.rfilename for sibling in found.siblings or ())
    is_run = {MODEL, RECIPE} <= set(files)
    known = _OF_THE_HUB | (_OF_WEIGHTS | upload.files.keys() if is_run else frozenset())
    if others := sorted(set(files) - known):
        raise HubError(
            f"{upload.repository} has other content: {listed(others)}",
            hint="choose another name, or remove these files",
        )
    if not found.private and not upload.public:
        raise HubError(
            f"{upload.repository} exists and is public",
            hint="add `public` if everybody may read the run, or choose another name",
        )
    return Existing(
        commit=found.sha,
        public=not found.private,
        files=files,
        replaced=tuple(sorted(set(files) & upload.files.keys())),
        removed=tuple(sorted(set(files) & _OF_WEIGHTS - upload.files.keys())),
    )


def push(upload: Upload) -> Pushed:
    """Upload what was prepared in one commit, to a new repository or over an earlier version.

    Large files are transferred first, and don't appear in the repository before the commit.

    Raises:
        HubError: If there is no token, it has no right to write, the repository has other content,
            or the transfer fails. The files of the repository are then unchanged; a new one stays
            empty.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, name = client(writing=True), upload.repository
    existing = inspect(upload)
    with translating(name, writing=True), warnings.catch_warnings():
        # The client takes predictions.parquet for a data set.
        warnings.filterwarnings("ignore", message=".*commit a data file")
        # How it calls its own library is nothing that a user can change.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if existing is None:
            api.create_repo(name, private=not upload.public)
        done = api.create_commit(
            name,
            [
                *(
                    CommitOperationAdd(path_in_repo=file, path_or_fileobj=upload.folder / file)
                    for file in upload.files
                ),
                *(
                    CommitOperationDelete(path_in_repo=file)
                    for file in (() if existing is None else existing.removed)
                ),
            ],
            commit_message=upload.message,
            parent_commit=None if existing is None else existing.commit,
        )
    return Pushed(url=f"{upload.endpoint}/{name}", commit=done.oid)
