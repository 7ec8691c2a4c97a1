"""Every backbone of zoo's own plugins passes the conformance kit."""

import pytest

from tests.backbones.sweep import sweep


@pytest.mark.slow
def test_every_backbone_passes_the_checks():
    assert [failure for row in sweep(by_class=True) for failure in row.failures] == []
