"""What a platform says of itself in statements of reasons: what the DSA database would refuse is refused here."""

from __future__ import annotations

from typing import Any

import pytest

from moderation import statement_defaults
from moderation.errors import InvalidRequest


@pytest.mark.parametrize(
    "said, pointer",
    [
        ({"synthetic": {"category": "STATEMENT_CATEGORY_CATS"}}, "/synthetic/category"),
        ({"synthetic": {"decision_visibility": ["REMOVED"]}}, "/synthetic/decision_visibility/0"),
        ({"illegal": {"territorial_scope": ["US"]}}, "/illegal/territorial_scope/0"),
        ({"illegal": {"illegal_content_explanation": "x" * 2001}}, "/illegal/illegal_content_explanation"),
        ({"synthetic": {"decision_visibility": ["DECISION_VISIBILITY_OTHER"]}}, "/synthetic"),
        ({"synthetic": {"decision_monetary_other": "less"}}, "/synthetic"),
        ({"synthetic": {"automated_decision": "AUTOMATED_DECISION_NOT_AUTOMATED"}}, "/synthetic/automated_decision"),
        ({"reel": {}}, "/reel"),
    ],
)
def test_defaults_that_the_database_would_refuse_are_refused_here(said: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        statement_defaults.read(said)
    assert refused.value.pointer == pointer
