"""The type `Tensor` for annotations, in modules that must not import torch (it takes seconds).

For type checkers it is `torch.Tensor`. At run time it is a class whose instances are torch's tensors, so that
annotations such as `Float[Tensor, "layer head"]` can be read wherever they stand and tests can check shapes. Modules
that import torch anyway take `Tensor` from there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:

    class TensorType(type):
        """Recognises tensors once torch is there; without it there are none."""

        def __instancecheck__(cls, value: object) -> bool:
            return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)

    class Tensor(metaclass=TensorType):
        """Stands for `torch.Tensor`."""
