"""The errors that zoo raises: what is wrong, where, and what to do about it."""


class ZooError(Exception):
    """Base class of all errors that zoo raises on purpose; the CLI prints it, with exit code 2.

    Settings are named in backquotes, as in Python and recipes: `image_size`, or, with a value,
    `train=finetune`. The CLI prints their flags instead.

    Attributes:
        text: What is wrong, and where.
        hint: What to do about it; None if the text is sufficient.
        shared: Whether all processes raise it, so that only one of them needs to print it.
    """

    shared = False

    def __init__(self, text: str = "", *, hint: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        if self.hint is None:
            return self.text
        separator = "\n" if "\n" in self.text else "; "
        return f"{self.text}{separator}{self.hint}"


class RecipeError(ZooError):
    """A recipe that can't be read, or that has unknown keys or invalid values."""


class PluginError(ZooError):
    """A plugin that is missing or broken, or whose declarations are wrong."""


class UnknownBackboneError(PluginError):
    """A backbone name that no plugin declares, or that several do."""


class WeightsError(ZooError):
    """Weights that can't be found, read, or loaded into the backbone."""


class WeightsUnavailableError(WeightsError):
    """Pretrained weights that are not on this machine and could not be fetched."""


class SizeError(ZooError):
    """An input size for which a backbone can't be built."""


class OptionError(ZooError):
    """Options that a backbone or format does not have, or values that they can't take."""


class DataError(ZooError):
    """A data folder or an image that can't be used."""


class UnavailableError(DataError):
    """Data on a network that can't be read now, or has changed since it was listed.

    It says nothing about an image, so that none is left out for it: the run ends.
    """


class CacheError(ZooError):
    """A cache that can't be written."""


class RunError(ZooError):
    """A run folder that can't be read or written, or a path that is not a run folder."""


class HubError(ZooError):
    """A repository of the Hub that can't be read or written."""


class TrainingError(ZooError):
    """Training that can't start on this machine or can't continue."""


class DivergenceError(TrainingError):
    """Training that has diverged.

    Attributes:
        step: The training step, of all steps taken, at which divergence was detected.
    """

    def __init__(self, text: str, step: int = 0, *, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.step = step


class NonFiniteError(DivergenceError):
    """A loss or weights that are not finite."""


class BoundaryError(ZooError):
    """A network that can't be split at the end of its frozen part."""


class Stopped(KeyboardInterrupt):
    """A run that was stopped by a signal after saving its progress; it can be resumed.

    Attributes:
        signum: The signal's number.
    """

    def __init__(self, signum: int, text: str = "") -> None:
        super().__init__(text)
        self.signum = signum
