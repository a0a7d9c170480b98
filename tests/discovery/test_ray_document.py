"""Reading recorded answers of Ray's dashboard, and answers that are not Ray's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.formats import check_name
from sage_inference.discovery.ray_document import RayReplica, RayView, read
from sage_inference.discovery.source import SourceError
from tests.support.ray_cluster import RECORDED, recorded

VERSIONS = sorted(each.name for each in RECORDED.iterdir())
DOCUMENTS = sorted(RECORDED.rglob("*.json"))


def names(view: RayView) -> list[str]:
    return [each.name for each in view.replicas]


def changed(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("version", VERSIONS)
def test_replicas_have_their_own_ports(version: str) -> None:
    view = read(recorded("running", version), "sage-engines")
    assert len(view.replicas) == 3
    assert {each.url for each in view.replicas} == {f"http://127.0.0.1:3000{n}/" for n in range(3)}
    assert all(each.name == f"sage-engines.{each.id}" for each in view.replicas)
    assert (view.remarks, view.unsettled) == ((), frozenset())


@pytest.mark.parametrize("version", VERSIONS)
def test_applications_whose_names_begin_alike_belong_together(version: str) -> None:
    view = read(recorded("two_applications", version), "sage-engines")
    assert [each.application for each in view.replicas] == ["sage-engines"] * 3 + ["sage-engines.bge-m3"]
    assert view.replicas[3].url == "http://127.0.0.1:30003/sage-engines.bge-m3"
    alone = read(recorded("two_applications", version), "sage-engines.bge-m3")
    assert names(alone) == names(view)[3:]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_application_that_is_deployed_shows_proxies_and_no_replica(version: str) -> None:
    view = read(recorded("deploying", version), "sage-engines")
    assert len(view.replicas) == 4
    assert view.unsettled == {"sage-engines.slow"}
    assert view.remarks == ("application sage-engines.slow is DEPLOYING",)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_serve_nothing_is_there_and_nothing_is_settled(version: str) -> None:
    view = read(recorded("nothing", version), "sage-engines")
    assert not view.replicas
    assert view.unsettled
    assert view.remarks == ("Ray has no application sage-engines, and no other one; is it deployed?",)


def test_a_missing_application_is_reported_with_those_that_are_there() -> None:
    view = read(recorded("two_applications"), "engines")
    assert view.unsettled
    assert view.remarks[0].startswith(
        "Ray has no application engines, only sage-engines, sage-engines.bge-m3;"
    )
    assert "sage-engines2" not in str(read(recorded("two_applications"), "sage-engine").replicas)


def test_an_application_that_was_just_deployed_has_no_route_yet_and_no_fault() -> None:
    view = read(recorded("just_deployed", "2.56.0"), "sage-engines")
    assert view.unsettled == {"sage-engines"}
    assert view.remarks == ("application sage-engines is DEPLOYING",)


def test_an_application_without_replicas_is_settled_when_it_runs() -> None:
    view = read(recorded("scaled_to_zero"), "sage-engines")
    assert (view.replicas, view.unsettled) == ((), frozenset())


def test_the_replicas_of_an_application_that_is_deleted_are_gone() -> None:
    view = read(recorded("deleting"), "sage-engines")
    assert (view.replicas, view.unsettled) == ((), frozenset())
    assert view.remarks == ("application sage-engines is DELETING",)


def test_the_reason_of_a_failed_deployment_is_shown() -> None:
    view = read(recorded("deploy_failed"), "sage-engines")
    assert view.remarks == (
        "application sage-engines.bad is DEPLOY_FAILED: Failed to update the deployments ['Bad'].",
    )


@pytest.mark.parametrize("name", ["haproxy", "no_direct_ingress"])
def test_hidden_ports_name_the_variables_to_change(name: str) -> None:
    with pytest.raises(
        SourceError, match="RAY_SERVE_ENABLE_DIRECT_INGRESS=1, and without RAY_SERVE_ENABLE_HA_PROXY"
    ):
        read(recorded(name), "sage-engines")


def test_a_replica_that_ray_did_not_find_again_yet_is_not_gone() -> None:
    document = json.loads(recorded("running"))
    application = document["applications"]["sage-engines"]
    document["target_groups"][0]["targets"].pop()
    application["status"] = "DEPLOYING"
    assert read(changed(document), "sage-engines").unsettled == frozenset()
    application["deployments"]["Engine"]["replicas"][2]["state"] = "RECOVERING"
    assert read(changed(document), "sage-engines").unsettled == {"sage-engines"}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("ip", 7, "target 1 of application sage-engines is left out"),
        ("ip", "", "the host is missing"),
        ("ip", "169.254.169.254/latest?x=", "must be a host name or an IP address alone"),
        ("ip", "user@host", "must be a host name"),
        ("port", "30001", "target 1"),
        ("port", 0, "port 0 is not a number from 1 to 65535"),
        ("port", 1 << 70, "target 1"),
        ("name", None, "target 1"),
        ("name", "SERVE_REPLICA::", "no replica's id"),
        ("name", "SERVE_REPLICA::sage-engines#Engine#", "no replica's id"),
    ],
)
def test_one_bad_target_is_left_out_and_the_others_count(field: str, value: object, words: str) -> None:
    document = json.loads(recorded("running"))
    document["target_groups"][0]["targets"][1][field] = value
    view = read(changed(document), "sage-engines")
    assert len(view.replicas) == 2
    assert words in "\n".join(view.remarks)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "has another form than Ray's"),
        (b"<!DOCTYPE html><title>Ray</title>", "is a web page"),
        (b"null", "another form"),
        (b"[]", "another form"),
        (b'{"result": true, "msg": ""}', "applications"),
        (b'{"applications": []}', "another form"),
        (b'{"applications": {}, "target_groups": {}}', "another form"),
        (b'{"applications": {"sage-engines": 1}}', "another form"),
        (b'{"applications": {"sage-engines": {"status": 3}}}', "another form"),
        (b'{"applications": {"\xff": 1}}', "another form"),
        (b"[" * 200_000, "another form"),
        (b'{"applications":{"a":' + b"[" * 200_000, "another form"),
        (
            b'{"applications":{"sage-engines":{"status":"RUNNING","deployments":' + b'{"a":' * 5000,
            "another form",
        ),
        (recorded("running")[:4000], "another form"),
        (b'{"applications":{' + b'"a":{},' * 60_001 + b'"b":{}}}', "more than 60,000 objects"),
        (b'{"applications":{},"x":[' + b"1," * 300_001 + b"1]}", "300,000 values"),
    ],
    ids=range(16),
)
def test_another_answer_is_refused_with_the_reason(body: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(body, "sage-engines")


@given(st.text(max_size=120), st.text(min_size=1, max_size=120).filter(lambda text: "#" not in text))
def test_every_name_of_ray_becomes_a_valid_name(application: str, replica: str) -> None:
    made = RayReplica(
        f"SERVE_REPLICA::{application}#Engine#{replica}", application, "10.0.0.1", "http://10.0.0.1:1/"
    )
    check_name(made.name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key within a document."""
    found: list[tuple[Any, Any]] = []
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found += places(value[key])
    return found


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_value_of_any_type_in_any_place_ends_in_a_view_or_an_error(data: st.DataObject) -> None:
    document = json.loads(data.draw(st.sampled_from(DOCUMENTS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(document)))
        if data.draw(st.booleans()):
            container[key] = data.draw(JSON)
        else:
            del container[key]
    try:
        view = read(changed(document), "sage-engines")
    except SourceError as error:
        said, urls = [str(error)], []
    else:
        said, urls = list(view.remarks), [each.url for each in view.replicas]
    assert all(each.isprintable() for each in said)
    assert all(each.startswith("http://") for each in urls)
