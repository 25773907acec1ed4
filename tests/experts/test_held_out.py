import numpy as np
import pytest

from routerretriever.data.splits import is_measured_on
from routerretriever.errors import CollectionError
from routerretriever.experts.held_out import FEW_HELD_OUT, HeldOutPlan
from routerretriever.lora.expert_info import ExpertInfo

MANY = [f"query number {number}" for number in range(FEW_HELD_OUT)]


def test_copies_are_on_one_side_and_both_sides_have_about_half():
    for text in MANY:
        assert is_measured_on(text) == is_measured_on(f"  {text.upper()} ?")
    assert 0.4 < np.mean([is_measured_on(text) for text in MANY]) < 0.6


def test_many_queries_are_divided():
    plan = HeldOutPlan.of([MANY, MANY])
    (part,) = plan.parts
    assert plan.rule == "split"
    for selects, measures in zip(part.selects, part.measures, strict=True):
        np.testing.assert_array_equal(selects, ~measures)
        np.testing.assert_array_equal(measures, [is_measured_on(text) for text in MANY])


def test_of_few_queries_each_is_measured_once_by_the_choice_of_others():
    few = [*MANY[:40], MANY[0].upper(), f"{MANY[30]} "]
    plan = HeldOutPlan.of([MANY, few])
    assert plan.rule == "cross-fit" and len(plan.parts) == 6
    assert all(rows.all() for rows in plan.parts[0].selects)
    assert all(rows.all() for rows in plan.measures)
    for part in plan.parts:
        for selects, measures in zip(part.selects, part.measures, strict=True):
            assert not (selects & measures).any()
    counts = sum(part.measures[1].astype(int) for part in plan.parts)
    assert (counts == 1).all()
    for part in plan.parts:
        assert part.measures[1][0] == part.measures[1][40] and part.measures[1][30] == part.measures[1][41]


def test_copies_of_one_query_cannot_measure():
    with pytest.raises(CollectionError, match="copies of one"):
        HeldOutPlan.of([["how?", "HOW", " how "]])


def test_an_expert_of_an_older_version_says_that_it_may_be_optimistic():
    info = ExpertInfo("x", 10, 5, 0.5, 0.6)
    assert info.measured_on == "also used to choose it"
    assert (info.p_value, info.selection_gain, info.optimism) == (None, None, 0.0)
    assert not info.gains_significantly(0.05)
