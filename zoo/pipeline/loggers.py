"""Loggers: listeners that are declared by plugins and selected by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo import plugins
from zoo.events import Listener, Note


def open_loggers(names: Sequence[str]) -> dict[str, Listener]:
    """Create the loggers with these names, before a run is prepared.

    Raises:
        PluginError: No plugin declares a logger with that name, or creating it fails.
    """
    made: dict[str, Listener] = {}
    for name in names:
        made[name] = plugins.make(f"logger {name}", plugins.declared_as("zoo_loggers", name))
    return made


def with_loggers(listen: Listener, loggers: Mapping[str, Listener]) -> Listener:
    """Return a listener that also passes each event to the loggers.

    A logger that raises is disabled with a warning, because it must not end a run.
    """
    if not loggers:
        return listen
    working = dict(loggers)

    def tell(event: object) -> None:
        listen(event)
        for name, logger in list(working.items()):
            try:
                logger(event)
            except Exception as error:  # noqa: BLE001 - foreign code raises anything
                del working[name]
                cause = plugins.explain(error)
                listen(
                    Note(
                        text=f"logger {name} failed, and is not called again: {cause}", warning=True
                    )
                )

    return tell
