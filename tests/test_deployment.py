"""Files in deploy/ that run several hosts agree with the gateway, with each other and with the image.

`rendered` knows the few forms of Helm's language that the templates use, and refuses others.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from starlette.types import ASGIApp

from llm_gateway import __version__
from llm_gateway.cli.exits import SETTINGS
from llm_gateway.gate.authentication import OPEN_PATHS
from llm_gateway.settings import PREFIX, SECRETS, Settings
from llm_gateway.settings_reader import SECRET_FILES, load_settings
from llm_gateway.worker.endpoints.health import WorkerState, health_endpoints
from tests.nginx_server import FRAME, find_nginx

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "llm-gateway"
IMAGE = (DEPLOY / "Dockerfile").read_text("utf-8")
DEFAULTS = Settings()
GRACE_S = DEFAULTS.accept_seconds + 2 * DEFAULTS.drain_seconds + 10
"""Seconds to stop: workers accept and drain, then the control process drains; and some."""
NAMED = re.compile(rf"\b{PREFIX}[A-Z_]+\b")
BLOCK = re.compile(
    r"^ *\{\{- (?:if (?P<if>\S+)|range \$name, \$value := (?P<range>\S+)) \}\}\n"
    r"(?P<inner>(?:(?! *\{\{- (?:if|range) ).*\n)*?)^ *\{\{- end \}\}\n",
    re.MULTILINE,
)
"""A block with no other one in it."""
Documents = dict[tuple[str, str], dict[str, Any]]


def rendered(template: str, release: str, values: dict[str, Any]) -> str:
    """Return what Helm makes of a template with `if`, `range`, `quote`, `toJson` and a sum."""

    def found(path: str) -> Any:
        value: Any = {"Values": values, "Release": {"Name": release}}
        for part in path.removeprefix(".").split("."):
            value = value[part]
        return value

    def block(match: re.Match[str]) -> str:
        if match["if"]:
            return match["inner"] if found(match["if"]) else ""
        items = sorted(found(match["range"]).items())
        each = ((match["inner"].replace("{{ $name }}", name), json.dumps(value)) for name, value in items)
        return "".join(text.replace("{{ $value | quote }}", value) for text, value in each)

    def expression(match: re.Match[str]) -> str:
        text = match[1]
        if sum_ := re.fullmatch(r"add (\S+) \(mul 2 (\S+)\) 10", text):
            return str(found(sum_[1]) + 2 * found(sum_[2]) + 10)
        if as_json := re.fullmatch(r"toJson (\S+)", text):
            return json.dumps(found(as_json[1]))
        if quoted := re.fullmatch(r"(\.\S+) \| quote", text):
            return json.dumps(str(found(quoted[1])))
        assert re.fullmatch(r"\.\S+", text), f"a form that this renderer does not know: {text}"
        return str(found(text))

    while BLOCK.search(template):
        template = BLOCK.sub(block, template)
    return re.sub(r"\{\{ (.*?) \}\}", expression, template)


def documents(*texts: str) -> Documents:
    found = [document for text in texts for document in yaml.safe_load_all(text)]
    assert len({(each["kind"], each["metadata"]["name"]) for each in found}) == len(found)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def chart(release: str = "llm-gateway", **changes: Any) -> Documents:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8")) | changes
    templates = sorted((CHART / "templates").iterdir())
    return documents(*(rendered(path.read_text("utf-8"), release, values) for path in templates))


def manifests() -> Documents:
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in folder.iterdir())
    return documents(*((folder / name).read_text("utf-8") for name in listed))


def pod(found: Documents, name: str = "llm-gateway") -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return the pod's spec, its container, and the container's variables."""
    spec = found["StatefulSet", name]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    return spec, container, {each["name"]: each["value"] for each in container["env"]}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return found


def gateways() -> dict[str, dict[str, Any]]:
    return {name: each for name, each in compose()["services"].items() if name.startswith("gateway-")}


def environments() -> Iterator[tuple[str, dict[str, str], set[str]]]:
    """Each set of variables for a gateway, and the paths of the files that are mounted beside it."""
    for name, service in gateways().items():
        yield name, service["environment"], {f"/run/secrets/{secret}" for secret in service["secrets"]}
    admin: dict[str, Any] = {"admin": {"port": 8201}, "settings": {"LLM_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8"}}
    for name, found in (("manifests", manifests()), ("chart", chart()), ("chart with all", chart(**admin))):
        spec, container, variables = pod(found)
        [folder] = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "secrets"]
        [volume] = [each["projected"] for each in spec["volumes"] if each["name"] == "secrets"]
        items = [item["path"] for source in volume["sources"] for item in source["secret"]["items"]]
        yield name, variables, {f"{folder}/{item}" for item in items}


def test_the_chart_renders_the_manifests() -> None:
    assert chart() == manifests()
    about = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (about["name"], about["appVersion"]) == ("llm-gateway", __version__.removesuffix(".dev0"))


def test_the_charts_values_reach_what_they_are_for() -> None:
    found = chart(
        "eu",
        replicas=3,
        workers=4,
        acceptSeconds=20,
        drainSeconds=60,
        admin={"port": 8201},
        database={"secretName": "postgres", "secretKey": "uri"},
        data={"size": "8Gi", "storageClass": "fast", "memory": ""},
        settings={"LLM_GATEWAY_LOG_LEVEL": "warning"},
    )
    spec, container, variables = pod(found, "eu")
    stateful = found["StatefulSet", "eu"]["spec"]
    assert (stateful["replicas"], stateful["serviceName"]) == (3, "eu-hosts")
    assert spec["terminationGracePeriodSeconds"] == 150
    wanted = {
        "WORKERS": "4",
        "ACCEPT_SECONDS": "20",
        "DRAIN_SECONDS": "60",
        "ADMIN_PORT": "8201",
        "LOG_LEVEL": "warning",
    }
    assert {PREFIX + name: str(value) for name, value in wanted.items()}.items() <= variables.items()
    [port] = found["Service", "eu-admin"]["spec"]["ports"]
    assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
    assert spec["volumes"][0]["projected"]["sources"][1]["secret"] == {
        "name": "postgres",
        "items": [{"key": "uri", "path": "database_url"}],
    }
    [claim] = stateful["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "8Gi"


def test_the_chart_places_pods_and_gives_them_further_secrets_as_files() -> None:
    place: dict[str, Any] = {
        "annotations": {"a.example.com/b": "c"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gateways", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
    }
    found = chart(
        pod=place,
        service={"type": "LoadBalancer", "port": 443, "annotations": {"internal": "true"}},
        secretSettings={"LLM_GATEWAY_OIDC_CLIENT_SECRET": "oidc"},
        secretFiles={"ca.pem": "authority"},
    )
    spec, _, variables = pod(found)
    template = found["StatefulSet", "llm-gateway"]["spec"]["template"]
    assert template["metadata"]["annotations"] == place.pop("annotations")
    assert place.items() <= spec.items()
    assert found["Service", "llm-gateway"]["metadata"]["annotations"] == {"internal": "true"}
    file = variables["LLM_GATEWAY_OIDC_CLIENT_SECRET_FILE"]
    assert file == "/run/secrets/llm-gateway/LLM_GATEWAY_OIDC_CLIENT_SECRET"
    [volume] = [each["projected"] for each in spec["volumes"] if each["name"] == "secrets"]
    assert volume["sources"][0]["secret"]["items"][3:] == [
        {"key": "oidc", "path": Path(file).name},
        {"key": "authority", "path": "ca.pem"},
    ]


def test_the_charts_schema_knows_all_its_values_and_no_others() -> None:
    def same(schema: dict[str, Any], values: dict[str, Any]) -> None:
        assert schema["additionalProperties"] is False
        assert schema["properties"].keys() - {"global"} == values.keys()
        for name, value in values.items():
            if isinstance(value, dict) and "properties" in schema["properties"][name]:
                same(schema["properties"][name], value)

    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    further = SECRETS - {"service_keys", "encryption_keys", "key_peppers", "database_url", "redis_url"}
    named = schema["properties"]["secretSettings"]["propertyNames"]["enum"]
    assert set(named) == {PREFIX + secret.upper() for secret in further}
    same(schema, yaml.safe_load((CHART / "values.yaml").read_text("utf-8")))
    _, container, variables = pod(chart(admin={"port": 8201}))
    refused = schema["properties"]["settings"]["propertyNames"]["not"]["enum"]
    assert {name for name in variables if not name.endswith("_FILE")} <= set(refused)
    assert container["ports"][0]["containerPort"] == schema["properties"]["admin"]["properties"]["port"]["not"]["const"]


def test_each_variable_is_a_setting_and_its_value_fits(tmp_path: Path) -> None:
    known = {PREFIX + name.upper() for name in (*Settings.__struct_fields__, *SECRET_FILES, "env_file")}
    for path in (path for path in DEPLOY.rglob("*") if path.is_file() and path.parent.name != "secrets"):
        named = {each for each in NAMED.findall(path.read_text("utf-8")) if not each.endswith("_")}
        assert named <= known, path
    of_image = dict(re.findall(rf"({PREFIX}[A-Z_]+)=(\S+)", IMAGE.split("ENV PATH", 1)[1]))
    secrets = {
        "service_keys": "ops:0123456789abcdef0123456789abcdef",
        "encryption_keys": "0123456789abcdef" * 4,
        "key_peppers": "1:0123456789abcdef0123456789abcdef",
        "database_url": "postgresql://gateway@postgres/gateway",
        "redis_url": "redis://:0123456789abcdef@valkey",
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value + "\n")
    for name, variables, mounted in environments():
        files = {each: value for each, value in variables.items() if each.endswith("_FILE")}
        assert set(files.values()) == mounted, name
        here = {each: str(tmp_path / Path(value).name) for each, value in files.items()}
        settings = load_settings(of_image | variables | here, tmp_path / ".env", [])
        assert settings.env == "production"
        assert all(getattr(settings, secret) == value for secret, value in secrets.items())


def test_the_chart_can_do_without_redis() -> None:
    spec, _, variables = pod(chart(redis={"secretName": "", "secretKey": "redis_url"}))
    assert "LLM_GATEWAY_REDIS_URL_FILE" not in variables
    assert "redis_url" not in str(spec["volumes"])


def test_hosts_without_a_disk_have_memory_in_the_place_of_volumes() -> None:
    found = chart(data={"size": "", "storageClass": "fast", "memory": "512Mi"})
    folder = DEPLOY / "kubernetes-memory"
    [patch] = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["patches"]
    patched = manifests()["StatefulSet", "llm-gateway"]
    for change in yaml.safe_load(patch["patch"]):
        *parents, last = change["path"].strip("/").split("/")
        target: Any = patched
        for part in parents:
            target = target[int(part) if isinstance(target, list) else part]
        if change["op"] == "remove":
            del target[last]
        else:
            assert last == "-"
            target.append(change["value"])
    assert found["StatefulSet", "llm-gateway"] == patched
    assert pod(found)[2]["LLM_GATEWAY_JOURNAL"] == "database"


def test_a_host_keeps_its_data_and_has_time_to_stop_without_any_rights() -> None:
    assert re.findall(r"^VOLUME (\S+)$", IMAGE, re.MULTILINE) == ["/var/lib/llm-gateway"]
    [user] = re.findall(r"--uid (\d+)", IMAGE)
    mounts = [volume for service in gateways().values() for volume in service["volumes"]]
    assert mounts == [f"gateway-{number}:/var/lib/llm-gateway" for number in (1, 2)]
    for name, service in gateways().items():
        assert service["stop_grace_period"] == f"{GRACE_S:.0f}s", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
    spec, container, variables = pod(manifests())
    assert variables["LLM_GATEWAY_ACCEPT_SECONDS"] == f"{DEFAULTS.accept_seconds:.0f}"
    assert variables["LLM_GATEWAY_DRAIN_SECONDS"] == f"{DEFAULTS.drain_seconds:.0f}"
    assert spec["terminationGracePeriodSeconds"] == GRACE_S
    assert {"name": "data", "mountPath": "/var/lib/llm-gateway"} in container["volumeMounts"]
    assert {spec["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    unit = (DEPLOY / "llm-gateway.service").read_text("utf-8")
    assert f"\nTimeoutStopSec={GRACE_S:.0f}\n" in unit
    assert "\nStartLimitIntervalSec=0\n" in unit.partition("[Service]")[0], "a start is tried until Postgres is there"
    assert f"--stop-timeout {GRACE_S:.0f} " in IMAGE


def test_systemd_tries_again_for_long_and_leaves_killed_workers_to_the_supervisor() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / "llm-gateway.service").read_text("utf-8"))
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    service = unit["Service"]
    assert (service["OOMPolicy"], service["Restart"], service["KillMode"]) == ("continue", "on-failure", "mixed")
    assert service["RestartPreventExitStatus"] == str(SETTINGS)
    assert " serve --env-file " in service["ExecStart"]
    assert service["ExecReload"].endswith(" reload --data-dir /var/lib/llm-gateway")
    assert "LLM_GATEWAY_DATA_DIR=/var/lib/llm-gateway" in service["Environment"].split()


def test_services_in_kubernetes_set_no_variables_that_the_gateway_would_refuse() -> None:
    assert pod(manifests())[0]["enableServiceLinks"] is False


def test_probes_ask_what_the_gateway_answers_without_a_key() -> None:
    _, container, _ = pod(manifests())
    [port] = container["ports"]
    assert port["containerPort"] == DEFAULTS.port
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: get["path"] for kind, get in asked.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    answered = health_endpoints(cast(WorkerState, None), cast(ASGIApp, None)).keys()
    assert {get["path"] for get in asked.values()} <= OPEN_PATHS & answered
    assert {get["port"] for get in asked.values()} == {port["name"]}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 3600, "a start may migrate and replay for long"
    readiness = container["readinessProbe"]
    noticed_s = readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"]
    assert noticed_s < DEFAULTS.accept_seconds


def test_services_and_budget_select_the_pods() -> None:
    found = manifests()
    labels = found["StatefulSet", "llm-gateway"]["spec"]["template"]["metadata"]["labels"]
    for (kind, name), document in found.items():
        selector = document["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels, (kind, name)
    headless = found["StatefulSet", "llm-gateway"]["spec"]["serviceName"]
    assert found["Service", headless]["spec"]["clusterIP"] == "None"


def directives(path: Path) -> set[str]:
    """Return the directives of nginx's `location`, without the address of the upstream."""
    [inner] = re.findall(r"location \S+ \{(.*?)\}", path.read_text("utf-8"), re.DOTALL)
    return set(re.findall(r"^ +(\w+ [^;]+);", inner, re.MULTILINE))


def test_the_balancer_has_the_settings_of_the_tested_file_for_nginx() -> None:
    balancer = DEPLOY / "balancer" / "default.conf"
    assert directives(balancer) - directives(DEPLOY / "nginx.conf") == {"proxy_connect_timeout 1s"}
    assert directives(DEPLOY / "nginx.conf") <= directives(balancer)
    servers = re.findall(r"^ +server (\S+):(\d+) ", balancer.read_text("utf-8"), re.MULTILINE)
    addresses = [service["networks"]["inside"]["ipv4_address"] for service in gateways().values()]
    assert servers == [(address, str(DEFAULTS.port)) for address in addresses]
    nginx = compose()["services"]["balancer"]
    trusted = {service["environment"]["LLM_GATEWAY_TRUSTED_PROXIES"] for service in gateways().values()}
    assert trusted == {nginx["networks"]["inside"]["ipv4_address"]}
    assert nginx["depends_on"].keys() == gateways().keys()


def test_nginx_takes_the_balancers_file(tmp_path: Path) -> None:
    text = (DEPLOY / "balancer" / "default.conf").read_text("utf-8")
    (tmp_path / "gateway.conf").write_text(text.replace("listen 8200;", f"listen unix:{tmp_path}/nginx.sock;"))
    (tmp_path / "nginx.conf").write_text(FRAME.format(folder=tmp_path))
    command: list[str | Path] = [
        *find_nginx(),
        "-t",
        "-e",
        tmp_path / "error.log",
        "-p",
        tmp_path,
        "-c",
        tmp_path / "nginx.conf",
    ]
    assert subprocess.run(command, check=False).returncode == 0, (tmp_path / "error.log").read_text()


@pytest.mark.parametrize("kind", ["secrets", "networks", "volumes"])
def test_compose_declares_what_its_services_use(kind: str) -> None:
    found = compose()
    used = {
        re.split("[:]", each)[0]
        for service in found["services"].values()
        for each in service.get(kind, [])
        if not each.startswith("./")
    }
    assert used == found[kind].keys()
    listed = (DEPLOY.parent / ".gitignore").read_text("utf-8").splitlines()
    assert "/deploy/secrets/" in listed, "the files of the secrets must not be committed"
