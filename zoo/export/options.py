"""What can be asked of an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.errors import OptionError
from zoo.exporter import Exporter


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export; a format supports those that its exporter declares.

    Attributes:
        opset: Version of the format's operators; None: the exporter's default.
        half: Store the weights as float16.
        int8: Quantise weights and activations to 8 bits, calibrated on train images.
        with_resize: Include resizing and cropping: the input is images of any size.
        probabilities: The output is probabilities instead of logits. For all formats.
    """

    opset: int | None = None
    half: bool = False
    int8: bool = False
    with_resize: bool = False
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.half and self.int8:
            raise OptionError("`half` and `int8` exclude each other: choose one of them")

    def of_format(self) -> dict[str, Any]:
        """Return the options that are asked for and that the exporter implements, by name."""
        values = {
            "opset": self.opset,
            "half": self.half,
            "int8": self.int8,
            "with_resize": self.with_resize,
        }
        return {name: value for name, value in values.items() if value not in (None, False)}

    def asked(self) -> dict[str, Any]:
        """Return all options that are asked for, by name."""
        return self.of_format() | ({"probabilities": True} if self.probabilities else {})

    def check(self, name: str, exporter: Exporter) -> None:
        """Refuse options that an exporter does not support.

        Raises:
            OptionError: It names the option.
        """
        missing = [option for option in self.of_format() if option not in exporter.options]
        if missing:
            known = ", ".join(f"`{option}`" for option in exporter.options) or "none"
            raise OptionError(
                f"format {name} does not support `{missing[0]}`; of these options it supports "
                f"{known}"
            )
