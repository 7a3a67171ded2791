"""`python -m tests.compatibility`: writes what the API promises from now on, unless it breaks what it has promised."""

from __future__ import annotations

import sys

from tests.compatibility.recorded import RECORDED, of_this_code, read, written
from tests.compatibility.schemas import broken

if __name__ == "__main__":
    now = of_this_code()
    wrong = broken(read(), now) if RECORDED.exists() else []
    if wrong:
        sys.exit("\n".join(["Nothing was written: programs that use the API would break (docs/upgrades.md):", *wrong]))
    RECORDED.write_text(written(now))
