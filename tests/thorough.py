"""How much of what takes long is run: a sample by default, all of it with THOROUGH=1, which `make thorough` sets."""

import os
from typing import Final

THOROUGH: Final = os.environ.get("THOROUGH") == "1"
