"""Makes a platform in the stack whose settings it has, then says, for each line it reads, what `telltale doctor` finds.

`python -m tests.infra.attendant RECEIVER_URL TARGETS`. A process of its own, for the test's own settings are those of
other services; one for all examinations, because most of what one costs is importing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from infra.demo.platform import new_platform
from infra.doctor.examination import checks, examine
from moderation.settings import settings


def main(receiver_url: str, targets: Path) -> None:
    """A JSON line for the platform, and one for each line of standard input."""
    platform = new_platform(receiver_url, "a long enough password", settings())
    say({"key": platform.key})
    for _ in sys.stdin:
        found = examine(settings(), checks(targets))
        say({name: [each.state.value, each.said] for name, each in found.items()})


def say(what: object) -> None:
    """As one line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
