"""Relations between results on a few geometries; `python -m tests.robustness.metamorphic` takes forty."""

from __future__ import annotations

import pytest

from tests.robustness import known, metamorphic


@pytest.mark.slow
def test_relations_between_results_hold() -> None:
    geometries = metamorphic.geometries_of(0, 10)
    assert any(one.empty_middle for one in geometries)
    checked = list(metamorphic.check_all(geometries))
    assert {one.relation for one in checked} == set(metamorphic.RELATIONS)
    difference = known.compare("metamorphic", metamorphic.faults(checked))
    assert not difference, difference
