"""`Tensor` for annotations in modules that must not import torch (which takes seconds).

For type checkers it is `torch.Tensor`. At run time it is a stand-in class that recognises torch's tensors as instances,
so that annotations such as `Float[Tensor, "layer head"]` can be evaluated anywhere and tests can check shapes. Modules
that import torch anyway take `Tensor` from there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:

    class TensorType(type):
        """Metaclass that recognises tensors once torch is imported; before that there are none."""

        def __instancecheck__(cls, value: object) -> bool:
            return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)

    class Tensor(metaclass=TensorType):
        """Stand-in for `torch.Tensor`."""
