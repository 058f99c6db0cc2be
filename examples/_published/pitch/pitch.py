"""CREPE's network, as the package torchcrepe has it."""

import sys
from importlib.util import find_spec
from types import ModuleType

if find_spec("torchaudio") is None:  # torchcrepe imports it, and needs it only to read files
    sys.modules["torchaudio"] = ModuleType("torchaudio")

from torchcrepe.model import Crepe

__all__ = ["Crepe"]
