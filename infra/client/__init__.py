"""A client of Telltale's REST API, and of the webhooks it sends: what a platform's own code installs.

It is a distribution of its own (`telltale-client`, imported as `telltale_client`) built from this folder, and the same
modules are what the `telltale` command and the demo use: one client, so that what platforms get is what we run. It
knows HTTP and nothing else of Telltale; it needs two packages that need none.
"""

from .client import Client, Options
from .problems import (
    BadSignature,
    ClientError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotSettled,
    Refused,
    ServiceFault,
    TooBusy,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    Unreachable,
    UnsupportedType,
)
from .shapes import (
    SETTLED,
    Appeal,
    Case,
    Decision,
    Explanation,
    Failure,
    Image,
    Label,
    Link,
    Missing,
    Model,
    Original,
    Priority,
    Statement,
    Status,
    Verdict,
)
from .webhooks import Event, verify
from .wire import VERSION, call

__version__ = VERSION
__all__ = [
    "SETTLED",
    "Appeal",
    "BadSignature",
    "Case",
    "Client",
    "ClientError",
    "Conflict",
    "Decision",
    "Event",
    "Explanation",
    "Failure",
    "Forbidden",
    "Image",
    "InvalidRequest",
    "Label",
    "Link",
    "Missing",
    "Model",
    "NotFound",
    "NotSettled",
    "Options",
    "Original",
    "Priority",
    "Refused",
    "ServiceFault",
    "Statement",
    "Status",
    "TooBusy",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unprocessable",
    "Unreachable",
    "UnsupportedType",
    "Verdict",
    "call",
    "verify",
]
