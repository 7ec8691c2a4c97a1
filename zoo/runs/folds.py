"""folds.json: the recipe of runs on folds and what they found, in the folder of the refit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from zoo.errors import RecipeError, RunError
from zoo.io.files import is_file
from zoo.io.parse import MAX_JSON, parse_json, read_bounded
from zoo.io.text import clip
from zoo.recipe import Recipe, checked_recipe
from zoo.runs.figures import Figures
from zoo.runs.folder import FOLDS_MARK
from zoo.runs.temperature import Calibration
from zoo.runs.write import write_file

_FIGURES: TypeAdapter[Figures | None] = TypeAdapter(Figures | None)
_CALIBRATION: TypeAdapter[Calibration | None] = TypeAdapter(Calibration | None)


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Content of folds.json.

    Attributes:
        recipe: As the runs were started, with `folds`.
        figures: Pooled figures; None before all folds are complete.
        calibration: What the pooled predictions say of probabilities, for the refit; None before.
    """

    recipe: Recipe
    figures: Figures | None = None
    calibration: Calibration | None = None


def has_folds(folder: Path) -> bool:
    """Return whether a folder holds runs on folds, complete or not."""
    return is_file(folder / FOLDS_MARK)


def write_folds(folder: Path, folds: Folds) -> None:
    """Write folds.json atomically, into the folder that has the runs on folds in a subfolder.

    Raises:
        RunError: It can't be written.
    """
    found, calibration = folds.figures, folds.calibration
    content = {
        "recipe": folds.recipe.model_dump(mode="json", exclude_unset=True),
        "figures": None if found is None else asdict(found),
        "calibration": None if calibration is None else asdict(calibration),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_file(folder / FOLDS_MARK, text.encode())


def read_folds(folder: Path) -> Folds:
    """Read folds.json, which may come from an untrusted source.

    Raises:
        RunError: It is missing or damaged.
    """
    file = folder / FOLDS_MARK
    try:
        content = parse_json(read_bounded(file, MAX_JSON).decode())
        recipe = checked_recipe(content["recipe"])
        figures = _FIGURES.validate_python(content["figures"])
        calibration = _CALIBRATION.validate_python(content.get("calibration"))
    except OSError as error:
        raise RunError(f"can't read {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecipeError) as error:
        raise RunError(f"{file} can't be understood: {clip(str(error))}") from error
    if recipe.folds is None or recipe.fold is not None:
        raise RunError(f"{file} can't be understood: its recipe has no folds")
    return Folds(recipe=recipe, figures=figures, calibration=calibration)
