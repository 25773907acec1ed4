"""Wrong settings are refused when they are made."""

import pytest

from routerretriever.errors import SynthesisError
from routerretriever.synthesis import Doc2QueryConfig, Limits, LlmConfig, SynthesisConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "guess"},
            "'method' should be 'crops', 'titles', 'mixture', 'doc2query' or 'llm', and is 'guess'",
        ),
        ({"method": "llm"}, "--endpoint URL --model NAME"),
        ({"queries": 0}, "'queries' should be greater than or equal to 1, and is 0"),
        (
            {"k": 2.5, "seed": None},
            "'k' should be .* and is 2.5; 'seed' should be a valid integer, and is None",
        ),
        ({"way": "crops"}, "there is no setting 'way'"),
        (
            {"doc2query": {"top_p": 2}},
            "'doc2query.top_p' should be less than or equal to 1, and is 2|'top_p' should",
        ),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SynthesisError, match=message):
        SynthesisConfig(**settings)


def test_settings_of_a_model_are_checked():
    with pytest.raises(SynthesisError, match="LlmConfig: 'model' is required"):
        LlmConfig(endpoint="http://x/v1")
    with pytest.raises(SynthesisError, match="'rate' should be greater than 0, and is 0"):
        LlmConfig(endpoint="http://x/v1", model="m", rate=0)
    with pytest.raises(SynthesisError, match="'batch_size' should be"):
        Doc2QueryConfig(batch_size=0)
    with pytest.raises(SynthesisError, match="'price_in' should be a finite number"):
        Limits(price_in=float("nan"))
