"""Defer importing torch's compiler: it takes a quarter of the startup, and zoo never uses it."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


def defer_compiler() -> None:
    """Make `import torch._dynamo` load nothing until one of its attributes is needed.

    torchvision and timm import it when they are imported: torchvision for one query in its
    detectors, and both to exclude functions from compilation (`torch.compiler.disable`). Both can
    wait; access to any other attribute loads the compiler.
    """
    if _COMPILER in sys.modules:
        return
    compiler, utils = _Later(_COMPILER), _Later(_UTILS)
    compiler.__dict__.update(disable=_disable, utils=utils)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules.update({_COMPILER: compiler, _UTILS: utils})


class _Later(ModuleType):
    """A placeholder for a module, which is loaded on access to an attribute that this one lacks."""

    #: Set because `inspect` reads it from all modules, which would load the compiler.
    __file__ = None

    def __getattr__(self, name: str) -> Any:
        # `from ... import` reads it to find out whether a module is a package.
        if (self.__name__, name) == (_UTILS, "__path__"):
            raise AttributeError(name)
        return getattr(_loaded(self.__name__), name)


def _is_deferred() -> bool:
    return isinstance(sys.modules.get(_COMPILER), _Later)


def _loaded(name: str) -> ModuleType:
    """Load and return the module itself."""
    if _is_deferred():
        del sys.modules[_COMPILER], sys.modules[_UTILS]
    return importlib.import_module(name)


def _disable(function: Any = None, *args: Any, **options: Any) -> Any:
    """Replace `torch._dynamo.disable`: apply it to the function once the compiler is loaded."""
    if function is None:
        return lambda each: _disable(each, *args, **options)
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        nonlocal disabled
        if _is_deferred():
            return function(*given, **named)
        if disabled is None:
            disabled = _loaded(_COMPILER).disable(function, *args, **options)
        return disabled(*given, **named)

    return call


def _is_compile_supported(*args: Any) -> Any:
    return _loaded(_UTILS).is_compile_supported(*args)
