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
    from abc import ABC

    class Tensor(ABC):
        """Stands for `torch.Tensor`."""

        @classmethod
        def __subclasshook__(cls, kind: type) -> bool:
            # Without torch there are no tensors.
            return "torch" in sys.modules and issubclass(kind, sys.modules["torch"].Tensor)
