"""The service in process: what it answers, and with which status it refuses."""

import base64
import dataclasses
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from zoo.errors import OptionError
from zoo.runs.answer import answer
from zoo.serve import Settings, create_app

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def client(run):
    with TestClient(create_app(run)) as found:
        yield found


@pytest.fixture(scope="module")
def photo(split_photos):
    return (split_photos / "val" / "red" / "0.png").read_bytes()


def png(width, height):
    content = io.BytesIO()
    Image.new("RGB", (width, height)).save(content, "PNG")
    return content.getvalue()


def only(response):
    assert response.status_code == 200, response.text
    (found,) = response.json()["predictions"]
    return found


def refused(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (text,) = response.json().values()
    assert response.json() == {"error": text}
    assert text
    return text


def ways(client, images):
    """The same images as a form and as JSON."""
    files = [("images", (f"{n}", image)) for n, image in enumerate(images)]
    yield client.post("/predict", files=files)
    texts = [base64.b64encode(image).decode() for image in images]
    yield client.post("/predict", json={"images": texts})
    if len(images) == 1:
        yield client.post("/predict", json={"image": texts[0]})
        for kind in ("image/png", "application/octet-stream"):
            yield client.post("/predict", content=images[0], headers={"content-type": kind})
        # Without a content type and a length.
        yield client.post("/predict", content=iter([images[0][:100], images[0][100:]]))


def same(found, expected):
    """Whether answers agree; batches of other sizes differ in the last digits."""
    rounded = (
        json.loads(json.dumps(each), parse_float=lambda v: round(float(v), 4))
        for each in (found, expected)
    )
    one, other = rounded
    return one == other


@pytest.mark.parametrize("number", [1, 5])
def test_every_way_gives_what_run_predict_gives(client, run, split_photos, number):
    files = sorted((split_photos / "val").rglob("*.png"))[:number]
    expected = [answer(each, several=False, sets=False) for each in run.predict(files)]
    for response in ways(client, [file.read_bytes() for file in files]):
        assert response.status_code == 200, response.text
        assert same(response.json()["predictions"], expected)


def test_what_is_asked_of_predictions_is_answered(run, photo):
    (expected,) = run.predict(photo, min_confidence=0.9999)
    assert expected.unsure
    asked = run.asked(min_confidence=0.9999, top_k=2)
    with TestClient(create_app(run, asked=asked)) as client:
        found = only(client.post("/predict", content=photo))
        assert (found["label"], found["unsure"]) == (None, True)
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-4)
        assert len(found["top"]) == 2
        assert len(only(client.post("/predict?top_k=1", content=photo))["top"]) == 1
        assert "zoo_unsure_images_total 2.0" in client.get("/metrics").text


def test_an_unfamiliar_image_is_marked(client, run):
    noise = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(noise, "PNG")
    (expected,) = run.predict(noise.getvalue())
    assert expected.familiar is not None
    found = only(client.post("/predict", content=noise.getvalue()))
    assert found["unfamiliar"] == (not expected.familiar)
    assert found["distance"] == pytest.approx(expected.distance, rel=1e-3)


def test_a_multi_label_run_answers_labels(run, photo):
    several = dataclasses.replace(run, info=dataclasses.replace(run.info, task="multi-label"))
    asked = several.asked(threshold=0.3)
    (expected,) = several.predict(photo, threshold=0.3)
    assert expected.labels
    with TestClient(create_app(several, asked=asked)) as client:
        found = only(client.post("/predict", content=photo))
    assert "label" not in found
    assert same(found, answer(expected, several=True, sets=False))


def test_a_heat_map_is_an_image(client, photo):
    found = only(client.post("/predict?heat_map=true", content=photo))
    start, content = found["heat_map"].split(",")
    assert start == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (32, 32)
    assert "heat_map" not in only(client.post("/predict", content=photo))


def test_bad_bodies_are_refused(client, photo):
    text = base64.b64encode(photo).decode()
    form = {"content-type": "multipart/form-data; boundary=x"}
    cases = [
        (400, {"content": b""}),
        (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
        (400, {"json": []}),
        (400, {"json": {"image": text, "url": "http://127.0.0.1/"}}),
        (400, {"json": {"images": text}}),
        (400, {"json": {"images": [1]}}),
        (400, {"json": {"images": []}}),
        (400, {"json": {"image": "%%%"}}),
        (400, {"json": {"image": ""}}),
        (400, {"content": b"--x\r\n", "headers": form}),
        (400, {"content": photo, "headers": form}),
        (400, {"content": photo, "headers": {"content-type": "multipart/form-data"}}),
        (415, {"data": {"image": "photo.jpg"}}),
        (415, {"content": photo, "headers": {"content-type": "text/html"}}),
        (422, {"content": b"no image"}),
        (422, {"content": photo[:200]}),
        (422, {"files": {"a": photo, "b": b"no image"}}),
    ]
    for status, request in cases:
        refused(client.post("/predict", **request), status)
    refused(client.post("/predict?top_k=0", content=photo), 422)
    assert client.app.state.held.count == 0


@pytest.mark.parametrize("given", ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/a.png"])
def test_no_path_or_address_of_a_client_is_read(client, given):
    refused(client.post("/predict", json={"image": given}), 400)
    refused(client.post("/predict", content=given.encode()), 422)
    refused(client.post("/predict", files={"image": (given, b"")}), 400)


def test_other_paths_and_methods_are_refused_as_json(client):
    refused(client.get("/predict"), 405)
    refused(client.get("/docs"), 404)
    refused(client.get("/../../etc/passwd"), 404)


def test_limits_are_kept(run, photo):
    settings = Settings(max_bytes=len(photo) + 500, max_images=2, max_pixels=64 * 64)
    with TestClient(create_app(run, settings)) as client:
        only(client.post("/predict", content=photo))
        refused(client.post("/predict", content=bytes(len(photo) + 501)), 413)
        # Without a declared length, and with one that is not true.
        refused(client.post("/predict", content=iter([photo, bytes(501)])), 413)
        refused(client.post("/predict", content=photo, headers={"content-length": "9" * 5000}), 413)
        files = [("a", b"x"), ("b", b"x"), ("c", b"x")]
        refused(client.post("/predict", files=files), 413)
        refused(client.post("/predict", json={"images": ["AAAA"] * 3}), 413)
        only(client.post("/predict", content=png(64, 64)))
        refused(client.post("/predict", content=png(65, 64)), 422)
        assert client.app.state.held.count == 0


def test_limits_that_exclude_each_other_are_an_error():
    with pytest.raises(OptionError):
        Settings(queue=3, max_images=4)


@pytest.fixture
def slow(run, monkeypatch):
    """Nothing is computed until this begins, which has the sizes of batches as it is."""
    begun = threading.Event()
    begun.sizes = []
    compute = type(run).predict_prepared

    def wait(self, decoded, *given):
        begun.sizes.append(len(decoded))
        begun.wait(30)
        return compute(self, decoded, *given)

    monkeypatch.setattr(type(run), "predict_prepared", wait)
    return begun


def test_images_of_several_requests_share_a_forward_pass(run, photo, slow):
    settings = Settings(batch_size=4, max_latency=5)
    with TestClient(create_app(run, settings)) as client, ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(client.post, "/predict", content=photo) for _ in range(9)]
        while "zoo_images_in_progress 9.0" not in client.get("/metrics").text:
            pass
        slow.set()
        found = [only(each.result()) for each in answers]
        text = client.get("/metrics").text
    assert len({each["label"] for each in found}) == 1
    assert sum(slow.sizes) == 9
    assert max(slow.sizes) == 4
    assert "zoo_images_total 9.0" in text
    assert 'zoo_requests_total{path="/predict",status="200"} 9.0' in text
    assert f"zoo_batch_images_count {len(slow.sizes)}.0" in text


def test_a_full_queue_is_told_at_once(run, photo, slow):
    settings = Settings(queue=2, max_images=2)
    with TestClient(create_app(run, settings)) as client, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.post, "/predict", content=photo) for _ in range(2)]
        while "zoo_images_in_progress 2.0" not in client.get("/metrics").text:
            pass
        full = client.post("/predict", content=photo)
        refused(full, 503)
        assert full.headers["retry-after"]
        assert client.get("/health").status_code == 200
        slow.set()
        for each in answers:
            only(each.result())
        only(client.post("/predict", content=photo))


def test_a_slow_answer_is_given_up(run, photo, slow):
    with TestClient(create_app(run, Settings(timeout=2))) as client:
        late = client.post("/predict", content=photo)
        refused(late, 503)
        assert late.headers["retry-after"]
        slow.set()
        # What nobody waits for any more gives its place back.
        while "zoo_images_in_progress 0.0" not in client.get("/metrics").text:
            pass
        only(client.post("/predict", content=photo))


def test_a_network_that_fails_is_an_error_and_the_service_goes_on(run, photo, monkeypatch):
    with TestClient(create_app(run), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(run), "predict_prepared", lambda *_: 1 / 0)
            refused(client.post("/predict", content=photo), 500)
            assert 'status="500"} 1.0' in client.get("/metrics").text
        only(client.post("/predict", content=photo))
        assert "zoo_images_in_progress 0.0" in client.get("/metrics").text


def test_health_names_the_run(client, run):
    found = client.get("/health").json()
    assert found["status"] == "ok"
    assert found["run"] == run.path.name
    assert found["classes"] == 3
    assert found["backbone"] == run.info.backbone


@pytest.mark.parametrize("path", ["/", "/health"])
def test_a_head_request_is_answered_like_a_get_request(client, path):
    found = client.head(path)
    assert (found.status_code, found.headers["content-type"]) == (
        200,
        client.get(path).headers["content-type"],
    )


def test_a_malformed_body_is_not_logged(client, photo, caplog):
    headers = {"content-type": 'multipart/form-data; boundary="'}
    refused(client.post("/predict", content=photo, headers=headers), 400)
    assert not [r for r in caplog.records if r.name.startswith("python_multipart")]


def test_the_page_names_the_limit_of_a_request(run):
    with TestClient(create_app(run, Settings(max_bytes=500_000))) as client:
        assert "Up to 0.5 MB" in client.get("/").text


def test_the_interface_is_described(client, photo):
    described = client.get("/openapi.json").json()
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/*"} <= body.keys()
    schema = described["components"]["schemas"]["Classified"]
    found = only(client.post("/predict?heat_map=true", content=photo))
    assert found.keys() <= schema["properties"].keys()
    assert set(schema["required"]) <= found.keys()


def test_the_page_needs_nothing_from_elsewhere_and_escapes_names(run):
    named = dataclasses.replace(run, path=run.path.parent / "<script>alert(1)<b>")
    with TestClient(create_app(named)) as client:
        response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>alert(1)" not in response.text
    assert "&lt;script&gt;alert(1)&lt;b&gt;" in response.text
    sources = re.findall(r"""(?:src|href)=["']([^"']*)|url\(|@import""", response.text)
    assert set(sources) <= {"data:,", "openapi.json"}
