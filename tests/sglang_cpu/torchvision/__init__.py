"""The names of torchvision that SGLang and transformers import, for a text model: none of them is called.

The registry's torchvision is linked against CUDA and does not import beside a CPU build of torch.
"""

import sys
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any, NoReturn

__version__ = "0.28.0"


class InterpolationMode(Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Unusable(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
            raise NotImplementedError(f"{self.__name__}.{name}: this torchvision is a stub for text models on a CPU")

        return refuse


for _name in ("io", "transforms", "transforms.functional", "transforms.v2", "transforms.v2.functional"):
    _module = _Unusable(f"{__name__}.{_name}")
    _module.__path__ = []
    _module.InterpolationMode = InterpolationMode
    sys.modules[_module.__name__] = _module
    _parent, _, _last = _module.__name__.rpartition(".")
    setattr(sys.modules[_parent], _last, _module)
