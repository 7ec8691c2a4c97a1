"""What compare.py compares: each tool, how it is started, with which settings."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import Recipe

PEERS = Path(__file__).parent / "peers"
#: Learning rates and loader processes that `compare.py --search` chose.
CHOSEN = Path(__file__).parent / "peers.toml"

#: The tool that the others are compared with.
REFERENCE = "zoo finetune"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool, or a way to use it, in a row of its own.

    Attributes:
        name: For people, and for `--only`.
        script: In bench/peers/.
        needs: Modules without which the row says "not installed".
        rates: Learning rates to search, the tool's own default first.
        epochs, batch_size, workers: Unless `peers.toml` says otherwise. None: the tool's own.
        flags: More flags for the script.
        again: The row whose caches it finds; without it zoo finds none.
        learns: Whether its accuracy can be compared.
    """

    name: str
    script: str
    needs: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    flags: tuple[str, ...] = ()
    again: str | None = None
    learns: bool = True

    @property
    def is_zoo(self) -> bool:
        """zoo finds weights and allocator itself, and keeps caches."""
        return self.script == "zoo_cli.py"

    def missing(self) -> str | None:
        """Why it can't run here, or None."""
        absent = [module for module in self.needs if not _importable(module)]
        if absent:
            return f"not installed ({', '.join(absent)})"
        if _PROBE[0] in self.flags and "train" not in Recipe.model_fields:
            return "this zoo has no --train"
        return None


_RATE = float(Recipe.model_fields["lr"].default)
_PROBE = ("--train=probe",)

TOOLS = (
    Tool(name=REFERENCE, script="zoo_cli.py", rates=(_RATE, _RATE / 2, _RATE * 2)),
    Tool(name="zoo finetune, again", script="zoo_cli.py", needs=("zoo.cache",), again=REFERENCE),
    Tool(name="zoo probe", script="zoo_cli.py", flags=_PROBE),
    Tool(
        name="zoo probe, again",
        script="zoo_cli.py",
        needs=("zoo.cache",),
        flags=_PROBE,
        again="zoo probe",
    ),
    Tool(
        name="PyTorch tutorial",
        script="tutorial.py",
        rates=(1e-3, 3e-3, 1e-2),
        epochs=4,
        batch_size=4,
        workers=4,
    ),
    Tool(
        name="PyTorch tutorial, batch 16",
        script="tutorial.py",
        rates=(1e-3, 4e-3, 1.6e-2),
        epochs=4,
        batch_size=16,
        workers=4,
    ),
    Tool(
        name="fastai",
        script="fastai_fine_tune.py",
        needs=("fastai",),
        rates=(2e-3, 5e-4, 8e-3),
        epochs=4,
        batch_size=16,
        workers=min(16, os.cpu_count() or 1),
    ),
    Tool(
        name="Hugging Face Trainer",
        script="hf_trainer.py",
        needs=("transformers", "accelerate"),
        rates=(5e-5, 2e-4, 8e-4),
        epochs=4,
        batch_size=16,
        workers=0,
    ),
    Tool(
        name="Ultralytics",
        script="ultralytics_train.py",
        needs=("ultralytics",),
        epochs=2,
        batch_size=16,
        workers=min(8, os.cpu_count() or 1),
        learns=False,
    ),
)


def all_tools() -> tuple[Tool, ...]:
    """`TOOLS`; where the search chose another rate for zoo than its default, that as well."""
    lr = chosen().get(REFERENCE, {}).get("lr", _RATE)
    if lr == _RATE:
        return TOOLS
    own = Tool(name=f"{REFERENCE} --lr {lr:g}", script="zoo_cli.py", flags=(f"--lr={lr:g}",))
    return (TOOLS[0], own, *TOOLS[1:])


def chosen() -> dict[str, dict[str, Any]]:
    """Settings by tool's name, as the last search left them; empty before any."""
    return tomllib.loads(CHOSEN.read_text(encoding="utf-8")) if CHOSEN.exists() else {}


def arguments(
    tool: Tool, *, data: Path, weights: Path, seed: int, lr: float | None, workers: int | None
) -> list[str]:
    """The command line after Python's own name; lr and workers None: the tool's default."""
    given = {"data": data, "seed": seed, "lr": lr}
    if not tool.is_zoo:
        given |= {
            "weights": weights,
            "lr": tool.rates[0] if lr is None and tool.rates else lr,
            "epochs": tool.epochs,
            "batch-size": tool.batch_size,
            "workers": tool.workers if workers is None else workers,
        }
    flags = [f"--{key}={value}" for key, value in given.items() if value is not None]
    return [str(PEERS / tool.script), *flags, *tool.flags]


def described(tool: Tool, settings: dict[str, dict[str, Any]]) -> str:
    """Its settings in words, as `arguments` gives them."""
    if tool.is_zoo:
        flags = " ".join(tool.flags)
        return f"`zoo finetune {flags}`" if flags else "`zoo finetune`, all defaults"
    own = settings.get(tool.name, {})
    words = [f"{tool.epochs} epochs, batch {tool.batch_size}"]
    if tool.rates:
        words.append(f"learning rate {own.get('lr', tool.rates[0]):g}")
    words.append(f"{own.get('workers', tool.workers)} loader processes")
    return ", ".join(words) + ("" if own else "; its defaults, nothing searched")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
