"""Hostile requests are refused, and neither stop the service nor fill its memory."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.hostile import hostile
from zoo.serve import Settings, create_app
from zoo.serve.body import RefusedError, images_in

#: Growth of memory that is no leak: pools of allocators, caches of codecs.
_GROWTH = 64 * 2**20


def resident() -> int:
    """Bytes of memory that the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(300, marks=pytest.mark.medium),
        pytest.param(10_000, marks=pytest.mark.slow),
    ],
)
def test_hostile_requests_are_refused(run, photos, count):
    photo = next(photos.rglob("*.png")).read_bytes()
    measured = []
    limits = Settings(max_bytes=200_000)
    with TestClient(create_app(run, limits)) as client:
        for n, (body, headers, query) in enumerate(hostile(count)):
            response = client.post(f"/predict{query}", content=body, headers=headers)
            assert 400 <= response.status_code < 500, (body[:200], headers, query)
            assert response.json().keys() == {"error"}
            if n % (count // 10) == 0:
                assert client.post("/predict", content=photo).status_code == 200
                if Path("/proc/self/statm").exists():
                    measured.append(resident())
        assert client.app.state.held.count == 0
        assert "zoo_images_in_progress 0.0" in client.get("/metrics").text
    if measured:
        assert measured[-1] - measured[1] < _GROWTH


@pytest.mark.medium
@settings(deadline=None)
@given(
    st.text(max_size=50) | st.sampled_from(["multipart/form-data; boundary=b", "application/json"]),
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b"a: b", b"x"])).map(b"".join),
)
def test_any_body_is_images_or_refused(content_type, body):
    refused = None
    try:
        found = images_in(content_type, body, 3)
    except RefusedError as error:
        refused = error
    if refused is None:
        assert 1 <= len(found) <= 3
        assert all(found)
    else:
        assert 400 <= refused.status < 500
        assert str(refused)
