"""The manifests of docs/cluster.md agree with each other, and the gateway takes what they give to it."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import typer
import yaml

from sage_inference.cli.inference import InferenceGroup
from sage_inference.config.check import check
from sage_inference.config.load import parse
from sage_inference.config.settings import Settings
from tests.recipes.cluster_page import blocks

[TEXT] = blocks("## Kubernetes", "yml")
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
OBJECTS = {(each["kind"], each["metadata"]["name"]): each for each in MANIFESTS}
VERSIONS = {"Service": "v1", "ConfigMap": "v1", "Deployment": "apps/v1"}
SECRETS = {"SAGE_KEY": "a-key", "ENGINE_KEY": "an-engine-key"}
# Keys of the API. Kubernetes refuses, or drops, a mistyped one.
CONTAINER = {
    *(
        "name",
        "image",
        "args",
        "env",
        "ports",
        "resources",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
    ),
    *("lifecycle", "volumeMounts"),
}
PROBE = {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
POD = {"terminationGracePeriodSeconds", "containers", "volumes"}


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = OBJECTS["Deployment", name]["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    [found] = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def port(name: str) -> int:
    [found] = container(name)["ports"]
    assert found["name"] == "http"
    return int(found["containerPort"])


def settings() -> Settings:
    [text] = OBJECTS["ConfigMap", "gateway"]["data"].values()
    return parse(text, "inference.yaml")


def test_each_object_has_its_version_and_a_name_of_its_own() -> None:
    assert len(OBJECTS) == len(MANIFESTS) == 5
    for kind, name in OBJECTS:
        assert OBJECTS[kind, name]["apiVersion"] == VERSIONS[kind]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


def test_deployments_and_services_select_the_pods_that_are_made() -> None:
    labels = []
    for (kind, _), each in OBJECTS.items():
        if kind == "Deployment":
            labels.append(each["spec"]["template"]["metadata"]["labels"])
            assert each["spec"]["selector"] == {"matchLabels": labels[-1]}
    for (kind, _), each in OBJECTS.items():
        assert kind != "Service" or each["spec"]["selector"] in labels


def test_containers_have_only_keys_of_the_api() -> None:
    for name in ("vllm", "gateway"):
        found = container(name)
        assert set(found) <= CONTAINER
        assert set(pod(name)) <= POD
        for probe in (value for key, value in found.items() if key.endswith("Probe")):
            assert set(probe) <= PROBE
            assert probe["httpGet"]["port"] == "http"
        assert all(isinstance(word, str) for word in found["args"])
        declared = [volume["name"] for volume in pod(name)["volumes"]]
        assert [mount["name"] for mount in found["volumeMounts"]] == declared


def test_the_source_is_the_headless_service_and_its_port() -> None:
    [source] = settings().sources
    assert source.dns is not None
    host, _, number = source.dns.partition(":")
    service = OBJECTS["Service", host]["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == {"app": "vllm"}
    assert int(number) == port("vllm") == service["ports"][0]["port"]


def test_the_gateway_takes_its_configuration_and_its_command_line() -> None:
    check(settings(), SECRETS)
    assert {each["name"] for each in container("gateway")["env"]} == {*SECRETS, "SAGE_INFERENCE_HOME"}
    assert (
        port("gateway") == settings().server.port == OBJECTS["Service", "gateway"]["spec"]["ports"][0]["port"]
    )
    mounts = {mount["name"]: mount["mountPath"] for mount in container("gateway")["volumeMounts"]}
    [file] = OBJECTS["ConfigMap", "gateway"]["data"]
    assert container("gateway")["args"] == ["start", "--config", f"{mounts['config']}/{file}"]
    command: Any = typer.main.get_command(import_module(InferenceGroup.lazy["start"].module).app)
    assert "--config" in {option for parameter in command.params for option in parameter.opts}
    [dockerfile] = blocks("## Kubernetes", "dockerfile")
    assert 'ENTRYPOINT ["sage-inference"]' in dockerfile


def test_each_secret_is_made_by_the_command() -> None:
    [shell] = blocks("## Kubernetes", "sh")
    entries = [entry for name in ("vllm", "gateway") for entry in container(name)["env"]]
    named = [entry["valueFrom"]["secretKeyRef"] for entry in entries if "valueFrom" in entry]
    assert {each["name"] for each in named} == {"inference"}
    assert "secret generic inference " in shell
    assert {each["key"] for each in named} == set(re.findall(r"--from-literal=([\w-]+)=", shell))


def test_a_pod_has_the_time_to_drain() -> None:
    waits = int(container("vllm")["lifecycle"]["preStop"]["exec"]["command"][-1])
    args = container("vllm")["args"]
    finishes = int(args[args.index("--shutdown-timeout") + 1])
    [source] = settings().sources
    assert source.drain_s >= finishes
    assert pod("vllm")["terminationGracePeriodSeconds"] > waits + finishes
    assert pod("gateway")["terminationGracePeriodSeconds"] > settings().timeouts.drain_s + 10
    assert OBJECTS["Deployment", "gateway"]["spec"]["replicas"] == 1
    assert OBJECTS["Deployment", "gateway"]["spec"]["strategy"] == {"type": "Recreate"}
