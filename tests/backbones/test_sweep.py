"""Every backbone of zoo's own plugins passes the conformance kit."""

import pytest

from tests.backbones.sweep import sweep


@pytest.mark.slow
def test_every_backbone_passes_every_check():
    assert [failure for row in sweep() for failure in row.failures] == []
