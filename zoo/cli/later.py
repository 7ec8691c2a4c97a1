"""Put off torch's compiler, which takes a quarter of the start and which zoo never asks for."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


def put_off_compiler() -> None:
    """Have `import torch._dynamo` load nothing until something is asked of it.

    torchvision and timm import it as they are imported, torchvision to ask it one question in its
    detectors, both to keep it away from functions of theirs (`torch.compiler.disable`). Both can
    wait; whatever else is asked for loads it, and is answered by it.
    """
    if _COMPILER in sys.modules:
        return
    compiler, utils = _Later(_COMPILER), _Later(_UTILS)
    compiler.__dict__.update(disable=_disable, utils=utils)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules.update({_COMPILER: compiler, _UTILS: utils})


class _Later(ModuleType):
    """Stands for a module until an attribute is asked for that it lacks."""

    #: Else `inspect`, which goes through all modules, would ask.
    __file__ = None

    def __getattr__(self, name: str) -> Any:
        # `from ... import` asks each module whether it is a package.
        if (self.__name__, name) == (_UTILS, "__path__"):
            raise AttributeError(name)
        return getattr(_loaded(self.__name__), name)


def _is_put_off() -> bool:
    return isinstance(sys.modules.get(_COMPILER), _Later)


def _loaded(name: str) -> ModuleType:
    """The module itself."""
    if _is_put_off():
        del sys.modules[_COMPILER], sys.modules[_UTILS]
    return importlib.import_module(name)


def _disable(function: Any = None, *args: Any, **options: Any) -> Any:
    """`torch._dynamo.disable`: the function, of which the compiler, once there is one, is told."""
    if function is None:
        return lambda each: _disable(each, *args, **options)
    told: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        nonlocal told
        if _is_put_off():
            return function(*given, **named)
        if told is None:
            told = _loaded(_COMPILER).disable(function, *args, **options)
        return told(*given, **named)

    return call


def _is_compile_supported(*args: Any) -> Any:
    return _loaded(_UTILS).is_compile_supported(*args)
