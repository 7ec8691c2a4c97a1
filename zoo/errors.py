"""The errors that zoo raises for people: what is wrong, where, and what to do about it."""


class ZooError(Exception):
    """Base of all errors that zoo raises on purpose; the CLI prints it and exits with code 2.

    Settings are named in backquotes, as Python and recipes do: `image_size`, or `train=finetune`
    with a value. The CLI prints their flags instead.

    Attributes:
        text: What is wrong, and where.
        hint: What to do about it; None where the text says all.
        shared: Whether each of several processes raises it, so that one alone needs to print it.
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
    """A recipe that can't be read, or that holds unknown or wrong keys."""


class PluginError(ZooError):
    """A plugin that is missing, broken, or declares something that isn't so."""


class UnknownBackboneError(PluginError):
    """A backbone name that no plugin declares, or that several do."""


class WeightsError(ZooError):
    """Weights that can't be found, read, or loaded into the backbone."""


class WeightsUnavailableError(WeightsError):
    """Pretrained weights that are not on this machine and could not be fetched."""


class SizeError(ZooError):
    """An input size that a backbone can't be built for."""


class DataError(ZooError):
    """A data folder or an image that can't be used."""


class CacheError(ZooError):
    """A cache that can't be written."""


class RunError(ZooError):
    """A run folder that can't be written, or a path that is none."""


class TrainingError(ZooError):
    """Training that can't start on this machine or can't go on."""


class DivergenceError(TrainingError):
    """Training that has destroyed what it started from.

    Attributes:
        step: The step, of all that were taken, at which it was seen.
    """

    def __init__(self, text: str, step: int = 0, *, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.step = step


class NonFiniteError(DivergenceError):
    """A loss or weights that are no numbers any more."""


class BoundaryError(ZooError):
    """A network that can't be cut where its frozen part ends."""


class Stopped(KeyboardInterrupt):
    """A run that a signal ended in good order: what was done is kept, and can be gone on with.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int, text: str = "") -> None:
        super().__init__(text)
        self.signum = signum
