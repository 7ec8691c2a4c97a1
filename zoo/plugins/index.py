"""An index of all declared backbones on disk, so that listing them imports no libraries."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.backbone import Backbone, LeftOut, Preprocess, Weights
from zoo.io.files import home, replacing
from zoo.plugins.discovery import _entry_points, disabled, load_all, required_versions
from zoo.plugins.names import backbones, left_out, matcher, published


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the index says about a backbone, with its default weights or those of a tag."""

    name: str
    head: tuple[str, ...]
    preprocess: Preprocess
    weights: Weights | None
    parameters: int | None
    macs: int | None
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Index:
    """All backbones that the installed plugins declare, sorted by name."""

    backbones: tuple[Entry, ...]
    published: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]
    failures: tuple[str, ...] = ()

    def matching(self, pattern: str) -> Index:
        """Return the entries whose full or bare name matches; the pattern is as for `backbones`."""
        matches = matcher(pattern)

        def wanted(name: str) -> bool:
            return bool(matches(name) or matches(name.partition("/")[2]))

        return Index(
            backbones=tuple(e for e in self.backbones if wanted(e.name)),
            published=tuple(e for e in self.published if wanted(e.name)),
            left_out=tuple(e for e in self.left_out if wanted(e.name)),
            failures=self.failures,
        )


def index() -> Index:
    """Return the index, from disk if no plugin and no library of one has changed since.

    It is built, and written to `$ZOO_HOME/backbones.json`, if it has; not while a plugin can't be
    loaded, which may change without a new version.
    """
    file, key = home() / "backbones.json", _fingerprint()
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(file.read_bytes())
        if stored["key"] == key:
            return _parsed(stored)
    built = Index(
        backbones=tuple(map(_entry, backbones())),
        published=tuple(map(_entry, published())),
        left_out=tuple(left_out()),
        failures=tuple(
            f"plugin {plugin} was left out: {plugin.state}: {plugin.cause}"
            for plugin in load_all()
            if plugin.state not in ("ok", "disabled")
        ),
    )
    if not built.failures:
        # Without a writable folder it is built again the next time.
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as beside:
                beside.write_text(json.dumps({"key": key, **asdict(built)}))
    return built


def indexed_names() -> list[str]:
    """Return the names of all backbones in the index on disk; none if it was never built.

    It may be out of date: a shell that completes a name can't wait until it is built again.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads((home() / "backbones.json").read_bytes())
        return [str(entry["name"]) for entry in stored["backbones"]]
    return []


def _entry(backbone: Backbone) -> Entry:
    return Entry(
        name=backbone.name,
        head=backbone.head_paths,
        preprocess=backbone.preprocess,
        weights=backbone.weights,
        parameters=backbone.parameters,
        macs=backbone.macs,
        tags=tuple(backbone.tagged),
    )


def _parsed(stored: dict[str, Any]) -> Index:
    def entries(kind: str) -> Iterator[Entry]:
        for each in stored[kind]:
            weights = each["weights"]
            yield Entry(
                name=each["name"],
                head=tuple(each["head"]),
                preprocess=Preprocess.from_dict(each["preprocess"]),
                weights=None if weights is None else Weights(**weights),
                parameters=each["parameters"],
                macs=each["macs"],
                tags=tuple(each["tags"]),
            )

    return Index(
        backbones=tuple(entries("backbones")),
        published=tuple(entries("published")),
        left_out=tuple(LeftOut(**each) for each in stored["left_out"]),
    )


def _fingerprint() -> str:
    """Return a SHA-256 of what decides the index: plugins, their code, versions of libraries."""
    versions: dict[str, dict[str, str]] = {}
    decisive: list[Any] = [sorted(disabled()), versions]
    for name, claims in sorted(_entry_points().items()):
        for claim in claims:
            dist = claim.dist
            about = [name, claim.value, dist.name if dist else "", dist.version if dist else ""]
            if dist and dist.name not in versions:
                versions[dist.name] = required_versions(dist.name)
            decisive.append([*about, _code(claim.module.partition(".")[0])])
    # zoo's own code, which gives an index its form.
    decisive.append(_code("zoo"))
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _code(module: str) -> list[tuple[str, int, int]]:
    """Return path, size and modification time of a module's files, which change while developed."""
    with suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            files = sorted(origin.parent.rglob("*")) if origin.stem == "__init__" else [origin]
            stats = [(file, file.stat()) for file in files if file.suffix not in ("", ".pyc")]
            return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return []
