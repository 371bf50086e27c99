"""Values in requests about exports."""

from typing import Literal

Precision = Literal["fp32"]
