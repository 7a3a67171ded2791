"""The manifests of infra/k8s: each overlay renders, fits the cluster's schemas, and says what the program means."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledJob, ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
from sqlalchemy import Engine, func, text, update
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from infra import gunicorn
from infra.cli import COMMANDS
from infra.processes import QUEUES, ROOT
from moderation.settings import Settings
from moderation.tables import Case, ExplanationRequest, Rejudging, TrainingRun
from moderation.vocabulary import CaseStatus, RunStatus
from tests import reading
from tests.factories import make_case, make_tenant, take_case
from workers.celery_app import SOFT_SHUTDOWN_S

Manifest = dict[str, Any]
SECOND = timedelta(seconds=1)
K8S = ROOT / "infra" / "k8s"
OVERLAYS = sorted(folder.name for folder in (K8S / "overlays").iterdir())
DOCUMENT = (ROOT / "docs" / "kubernetes.md").read_text()
KUBERNETES = "1.34"
CUSTOM = {each.__name__: each for each in (ScaledJob, ScaledObject, TriggerAuthentication, PodMonitor, PrometheusRule)}
OURS = {"telltale-api": "api", "telltale-io": "io", "telltale-gpu": "gpu", "telltale-cpu": "gpu"}
WITH_KEYS = {"migrate", "api", "delivery", "fetching"}
TO_THE_INTERNET = {"delivery", "fetching", "register-model"}
BACKUPS = {"backup", "backup-withdrawals", "backup-verify"}
# They do what they are for, and end.
ENDING = {"migrate", "register-model", "retraining", *BACKUPS}
# Whatever is not of the internet: https://www.iana.org/assignments/iana-ipv4-special-registry
PRIVATE = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10"}


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    return render(K8S / "overlays" / overlay)


def render(folder: Path) -> tuple[Manifest, ...]:
    kubectl = Path(sys.executable).with_name("kubectl")
    output = subprocess.run([kubectl, "kustomize", folder], check=True, text=True, stdout=subprocess.PIPE).stdout
    return tuple(yaml.load_all(output, Loader=yaml.CSafeLoader))


def named(overlay: str, kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in rendered(overlay) if each["kind"] == kind}


def templates(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Every pod that there may be: the name of its workload, and its template."""
    for each in rendered(overlay):
        spec = each.get("spec", {})
        template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
        template = template or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template:
            yield each["metadata"]["name"], template


def ours(overlay: str) -> dict[str, Manifest]:
    """The pods that run a program of ours."""
    return {
        name: template
        for name, template in templates(overlay)
        if template["metadata"]["labels"]["app.kubernetes.io/name"] == "telltale"
    }


def container(template: Manifest) -> Manifest:
    (only,) = template["spec"]["containers"]
    return only


def environment(template: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(template).get("env", [])}


def settings_map(overlay: str) -> dict[str, str]:
    (only,) = (each["data"] for name, each in named(overlay, "ConfigMap").items() if name.startswith("telltale-"))
    return only


def secrets(template: Manifest) -> set[str]:
    """By the names that people give them, without the hashes of generated ones."""
    sources = container(template).get("envFrom", [])
    found = {each["secretRef"]["name"] for each in sources if "secretRef" in each}
    return {re.sub(r"-[a-z0-9]{10}$", "", name) for name in found}


def image(template: Manifest) -> str:
    return container(template)["image"].rpartition("/")[2].partition(":")[0]


def command(template: Manifest) -> list[str]:
    """What the pod runs: its own command, or its image's."""
    own = container(template).get("command")
    dockerfile = (ROOT / f"infra/docker/{OURS[image(template)]}.Dockerfile").read_text().replace("\\\n", "")
    return own or yaml.safe_load(re.findall(r"^CMD (\[.+\])$", dockerfile, re.MULTILINE)[-1])


def check(manifest: Manifest) -> None:
    """Raises where a manifest is none, or has a field that nobody knows."""
    if manifest["kind"] not in CUSTOM:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    if manifest["kind"] == "ScaledJob":
        manifest = copy.deepcopy(manifest)
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}}
        kubernetes_validate.validate(job | {"spec": manifest["spec"]["jobTargetRef"]}, KUBERNETES, strict=True)
        # Of "1" the types make a number, and then refuse it.
        del container(manifest["spec"]["jobTargetRef"]["template"])["resources"]
    read = CUSTOM[manifest["kind"]].model_validate(manifest)
    # What a type does not know, it leaves out.
    assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_the_schemas_of_the_cluster(overlay: str) -> None:
    """Strictly: a field that no schema knows is an error."""
    assert len(rendered(overlay)) > 20
    for each in rendered(overlay):
        if overlay != "production" and each in rendered("production"):
            continue
        check(each)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_labels_find_what_they_mean(overlay: str) -> None:
    pods = {name: template["metadata"]["labels"] for name, template in templates(overlay)}

    def found(selector: Manifest) -> set[str]:
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for kind in ("Deployment", "PodDisruptionBudget"):
        for name, each in named(overlay, kind).items():
            assert found(each["spec"]["selector"]["matchLabels"]) == {name}, (kind, name)
    for name, each in named(overlay, "Service").items():
        assert found(each["spec"]["selector"]) == {name}, name
        ports = {port["name"] for port in container(dict(templates(overlay))[name])["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports, name
    for name, each in named(overlay, "NetworkPolicy").items():
        assert found(each["spec"]["podSelector"].get("matchLabels", {})), name
    for kind, target in (("HorizontalPodAutoscaler", "api"), ("ScaledObject", "screening")):
        for each in named(overlay, kind).values():
            assert each["spec"]["scaleTargetRef"]["name"] == target
            assert "replicas" not in named(overlay, "Deployment")[target]["spec"], "two would say how many there are"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_pod_names_is_there(overlay: str) -> None:
    maps, claims = named(overlay, "ConfigMap"), named(overlay, "PersistentVolumeClaim")
    for name, template in templates(overlay):
        sources = container(template).get("envFrom", [])
        assert {each["configMapRef"]["name"] for each in sources if "configMapRef" in each} <= set(maps), name
        volumes = {each["name"]: each for each in template["spec"].get("volumes", [])}
        assert {each["name"] for each in container(template).get("volumeMounts", [])} == set(volumes), name
        for each in volumes.values():
            if "persistentVolumeClaim" in each:
                assert each["persistentVolumeClaim"]["claimName"] in claims, name
            if "configMap" in each:
                assert each["configMap"]["name"] in maps, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_is_one(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"TELLTALE_{name.upper()}" for name in Settings.model_fields}
    assert set(settings_map(overlay)) <= known
    for name, template in ours(overlay).items():
        assert set(environment(template)) <= known, name
    for name, value in settings_map(overlay).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert read.metrics_port == 9464


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_queue_is_consumed_and_every_command_exists(overlay: str) -> None:
    consumed = []
    for name, template in ours(overlay).items():
        words = command(template)
        if "--queues" in words:
            queues = words[words.index("--queues") + 1].split(",")
            assert tuple(queues) == QUEUES[name]
            assert words[words.index("--hostname") + 1] == f"{name}@%h", "the probe asks for it by this name"
            probe = container(template)["startupProbe"]["exec"]["command"][-1]
            assert probe.endswith(f"--destination {name}@$HOSTNAME")
            consumed += queues
        if words[0] == "telltale":
            assert words[1] in COMMANDS, name
        if words[:2] == ["python", "-m"]:
            import_module(words[2])
        assert image(template) in OURS
    assert sorted(consumed) == sorted(queue for queues in QUEUES.values() for queue in queues)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_gains_rights_or_writes_where_it_should_not(overlay: str) -> None:
    for name, template in templates(overlay):
        pod, each = template["spec"]["securityContext"], container(template)["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert each["readOnlyRootFilesystem"] is True and each["allowPrivilegeEscalation"] is False, name
        assert each["capabilities"] == {"drop": ["ALL"]}, name
        assert template["spec"]["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(template["spec"]), name
        assert not any("hostPath" in volume for volume in template["spec"].get("volumes", [])), name
    for name, template in ours(overlay).items():
        assert template["spec"]["securityContext"]["runAsUser"] == 10001, "the user of the images"
        limits = container(template)["resources"]["limits"]
        assert "memory" in limits and "cpu" not in limits, name
        assert {"name": "tmp", "mountPath": "/tmp"} in container(template)["volumeMounts"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keys_are_with_who_opens_stored_secrets_and_the_document_says_what_each_secret_holds(overlay: str) -> None:
    """As in docker-compose.yml: what runs the model does not have them."""
    given = {name: secrets(template) for name, template in ours(overlay).items()}
    assert {name for name, held in given.items() if "telltale-keys" in held} == WITH_KEYS
    assert all("telltale-stores" in held for held in given.values())
    for secret in set().union(*given.values()):
        assert f"`{secret}`" in DOCUMENT, secret
    known = {f"TELLTALE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"TELLTALE_[A-Z0-9_]+", DOCUMENT)) <= known


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_lives_is_told_from_what_can_serve(overlay: str) -> None:
    for name, template in ours(overlay).items():
        if name in ENDING:
            continue
        each = container(template)
        assert "readinessProbe" in each, name
        assert each["livenessProbe"]["tcpSocket"] == {"port": "metrics"}, f"{name}: a request may wait for a database"
        assert {"name": "metrics", "containerPort": 9464} in each["ports"], name
    loading = container(ours(overlay)["screening"])["startupProbe"]
    assert loading["periodSeconds"] * loading["failureThreshold"] >= 30 * 60, "weights are fetched and loaded first"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whoever_ends_a_pod_waits_longer_than_it_may_take(overlay: str) -> None:
    longest = max(SOFT_SHUTDOWN_S, gunicorn.graceful_timeout)
    for name, each in named(overlay, "Deployment").items():
        if name in ours(overlay):
            spec = each["spec"]["template"]["spec"]
            pause = container(each["spec"]["template"]).get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            assert spec["terminationGracePeriodSeconds"] > longest + pause.get("seconds", 0) + 5, name
    beat = named(overlay, "Deployment")["beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]["type"]) == (1, "Recreate")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_talks_to_whom_they_need_not(overlay: str) -> None:
    policies = named(overlay, "NetworkPolicy")
    assert policies["nobody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    out = {
        name
        for name, template in templates(overlay)
        if template["metadata"]["labels"].get("telltale/egress") == "internet"
    }
    assert out == TO_THE_INTERNET
    for name, policy in policies.items():
        for rule in policy["spec"].get("egress", []):
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                everywhere = block["cidr"] in ("0.0.0.0/0", "2000::/3")
                assert not everywhere or name == "internet", name
                assert block["cidr"] != "0.0.0.0/0" or set(block["except"]) >= PRIVATE
    assert policies["internet"]["spec"]["podSelector"]["matchLabels"] == {"telltale/egress": "internet"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_schema_is_brought_up_to_date_before_anything_else_starts(overlay: str) -> None:
    """By label with kubectl, by wave with Argo CD; and what that needs comes with it."""
    job = named(overlay, "Job")["migrate"]
    wanted = ["python", "-m", "infra.preparation"] if overlay == "demo-cpu" else ["telltale", "migrate"]
    assert command(job["spec"]["template"]) == wanted
    assert job["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] == "-1"
    first = [each for each in rendered(overlay) if each["metadata"].get("labels", {}).get("telltale/first") == "true"]
    kinds = {each["kind"] for each in first}
    assert {"Namespace", "ServiceAccount", "ConfigMap", "Job", "NetworkPolicy"} <= kinds
    maps = [each["metadata"] for each in first if each["kind"] == "ConfigMap"]
    assert [each["annotations"]["argocd.argoproj.io/sync-wave"] for each in maps] == ["-2"]
    started = {each["metadata"]["name"] for each in first if each["kind"] == "Deployment"}
    assert started <= {"postgres", "seaweedfs", "valkey"}


@pytest.mark.parametrize("overlay", ["production", "vllm"])
def test_the_relay_offers_enough_for_as_many_threads_as_there_may_be(overlay: str) -> None:
    most = named(overlay, "ScaledObject")["screening"]["spec"]["maxReplicaCount"]
    values = settings_map(overlay)
    threads = int(values.get("TELLTALE_SCREENING_THREADS", Settings.model_fields["screening_threads"].default))
    assert int(values["TELLTALE_DISPATCH_WINDOW"]) >= 1.5 * most * threads
    (waiting,) = (t for t in named(overlay, "ScaledObject")["screening"]["spec"]["triggers"] if t["name"] == "waiting")
    (limit,) = re.findall(r"LIMIT (\d+)", waiting["metadata"]["query"])
    assert int(limit) >= most * int(waiting["metadata"]["targetQueryValue"])


def test_gpus_are_those_that_the_processes_are_told_of() -> None:
    vllm = dict(templates("vllm"))["vllm"]
    words = container(vllm)["command"]
    parallel = [int(words[words.index(f"--{kind}-parallel-size") + 1]) for kind in ("tensor", "data")]
    assert parallel[0] * parallel[1] == int(container(vllm)["resources"]["limits"]["nvidia.com/gpu"])
    assert "nvidia.com/gpu" not in container(ours("vllm")["screening"])["resources"]["limits"]
    several, one = ours("multi-gpu-retraining")["retraining"], ours("production")["retraining"]
    assert environment(several)["TELLTALE_RETRAIN_ACCELERATE"] == "ddp"
    assert [container(each)["resources"]["limits"]["nvidia.com/gpu"] for each in (several, one)] == ["4", "1"]
    assert not any("gpu" in str(container(each)["resources"]) for each in ours("demo-cpu").values())


def test_backups_are_made_one_at_a_time_and_none_passes_through_memory() -> None:
    jobs = {
        name: each["spec"] for name, each in named("production", "CronJob").items() if not each["spec"].get("suspend")
    }
    assert set(jobs) == BACKUPS and not BACKUPS & set(ours("demo-cpu"))
    (told,) = (each["data"] for name, each in named("production", "ConfigMap").items() if name.startswith("backup-"))
    for name, spec in jobs.items():
        assert spec["concurrencyPolicy"] == "Forbid" and spec["jobTemplate"]["spec"]["backoffLimit"] == 0, name
        template = ours("production")[name]
        sources = container(template)["envFrom"]
        assert sources[-1] == {"secretRef": {"name": "telltale-backup", "optional": True}}, "the last one counts"
        assert {*re.findall(r"\$\((\w+)\)", " ".join(command(template)))} <= set(told)
        (temporary,) = template["spec"]["volumes"]
        assert ("ephemeral" in temporary) == (name != "backup-withdrawals"), "a dump may be larger than memory"


def test_backups_can_go_to_a_volume(tmp_path: Path) -> None:
    above = "/".join(".." for _ in tmp_path.resolve().parts[1:])
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{above}{K8S}/overlays/production]\ncomponents: [{above}{K8S}/components/backup-volume]\n"
    )
    made = render(tmp_path)
    for name in BACKUPS:
        (job,) = (each for each in made if (each["kind"], each["metadata"]["name"]) == ("CronJob", name))
        check(job)
        pod = job["spec"]["jobTemplate"]["spec"]["template"]
        assert {"name": "backups", "mountPath": "/backups"} in container(pod)["volumeMounts"]
        assert {"name": "backups", "persistentVolumeClaim": {"claimName": "backups"}} in pod["spec"]["volumes"]
    (claim,) = (
        each for each in made if (each["kind"], each["metadata"]["name"]) == ("PersistentVolumeClaim", "backups")
    )
    check(claim)


def test_every_process_is_scraped_under_the_name_that_alerts_know() -> None:
    monitor = named("production", "PodMonitor")["telltale"]["spec"]
    assert monitor["jobLabel"] == "app.kubernetes.io/component"
    assert [each["port"] for each in monitor["podMetricsEndpoints"]] == ["metrics"]
    served = {
        template["metadata"]["labels"][monitor["jobLabel"]]
        for template in ours("production").values()
        if any(port["name"] == "metrics" for port in container(template).get("ports", []))
    }
    assert served == {"api", "relay", "screening", "delivery", "fetching", "retraining", "beat"}


def test_alert_rules_become_a_rule_of_the_operator_as_the_document_says() -> None:
    (made,) = re.findall(r"^cat <<'END'.+?^END$", DOCUMENT, re.MULTILINE | re.DOTALL)
    made = made.replace(" | kubectl apply -f -", "", 1)
    output = subprocess.run(["bash", "-c", made], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    rule = yaml.safe_load(output)
    shipped = yaml.safe_load((ROOT / "infra/prometheus/rules/telltale.yml").read_text())
    assert rule["spec"]["groups"] == shipped["groups"]
    check(rule)


# What KEDA asks, of a real database.


def question(kind: str, name: str, trigger: str) -> str:
    (found,) = (each for each in named("production", kind)[name]["spec"]["triggers"] if each["name"] == trigger)
    return found["metadata"]["query"]


WAITING = question("ScaledObject", "screening", "waiting")
LATENESS = question("ScaledObject", "screening", "lateness")
RUN_WAITS = question("ScaledJob", "retraining", "run-waits")


@pytest.fixture
def scaler(db: Engine) -> Iterator[Session]:
    """One transaction, in which the role that scaler.sql makes is there; at its end nothing is."""
    script = (K8S / "components/keda/scaler.sql").read_text().replace(":'password'", "'only here'")
    with db.connect() as connection:
        connection.exec_driver_sql(script)
        yield Session(connection)
        connection.rollback()


def answer(session: Session, query: str) -> float:
    """What the scaler's own role is told: one row of one number."""
    session.flush()
    session.execute(text("SET LOCAL ROLE telltale_scaler"))
    ((value,),) = session.execute(text(query)).all()
    session.execute(text("RESET ROLE"))
    return float(value)


def set_times(session: Session, case: Case, **times: timedelta) -> None:
    """Columns of a case as so long from now."""
    session.execute(
        update(Case).where(Case.id == case.id).values({name: func.now() + ahead for name, ahead in times.items()})
    )


def test_the_scaler_is_told_how_many_cases_are_due_or_being_judged(scaler: Session) -> None:
    tenant = make_tenant(scaler)
    for status in set(CaseStatus) - {CaseStatus.QUEUED, CaseStatus.SCREENING}:
        make_case(scaler, tenant, status)
    assert answer(scaler, WAITING) == 0
    queued, taken, lapsed, put_off = (make_case(scaler, tenant) for _ in range(4))
    take_case(scaler, taken)
    take_case(scaler, lapsed)
    set_times(scaler, lapsed, lease_until=-SECOND)
    set_times(scaler, put_off, next_attempt_at=10 * SECOND)
    set_times(scaler, queued, offered_until=10 * SECOND)
    assert answer(scaler, WAITING) == 3


def test_a_person_who_asks_why_and_cases_to_be_judged_again_need_a_worker(scaler: Session) -> None:
    case = make_case(scaler, make_tenant(scaler), CaseStatus.IN_REVIEW)
    assert answer(scaler, WAITING) == 0
    scaler.add(Rejudging(case_id=case.id, asked_by="test"))
    assert answer(scaler, WAITING) == 1
    scaler.add(ExplanationRequest(verdict_id=case.verdict_id, case_id=case.id, asked_by="test"))
    assert answer(scaler, WAITING) == 1
    scaler.execute(update(Rejudging).values(failed_at=func.now()))
    scaler.execute(update(ExplanationRequest).values(next_attempt_at=func.now() + SECOND))
    assert answer(scaler, WAITING) == 0


def test_the_scaler_is_told_for_how_long_the_oldest_case_could_have_been_taken(scaler: Session) -> None:
    tenant = make_tenant(scaler)
    make_case(scaler, tenant, CaseStatus.DECIDED)
    assert answer(scaler, LATENESS) == 0
    old, lapsed, put_off = (make_case(scaler, tenant) for _ in range(3))
    link = make_case(scaler, tenant, CaseStatus.FETCHING)
    set_times(scaler, link, next_attempt_at=-900 * SECOND)
    # Received long ago, and put off since, because a store was away: nobody is late.
    set_times(scaler, put_off, queued_at=-900 * SECOND, next_attempt_at=5 * SECOND)
    set_times(scaler, old, next_attempt_at=-50 * SECOND)
    take_case(scaler, lapsed)
    set_times(scaler, lapsed, next_attempt_at=-300 * SECOND, lease_until=-70 * SECOND)
    assert answer(scaler, LATENESS) == 70
    set_times(scaler, lapsed, lease_until=SECOND)
    assert answer(scaler, LATENESS) == 50, "a worker is at it"


@pytest.mark.parametrize(
    ("status", "columns", "waits"),
    [
        (RunStatus.ASKED, {}, 1),
        (RunStatus.RUNNING, {"lease_until": 100 * SECOND}, 0),
        (RunStatus.RUNNING, {"lease_until": -SECOND}, 1),
        (RunStatus.PROMOTED, {"upkeep_at": -SECOND}, 1),
        (RunStatus.PROMOTED, {"upkeep_at": 100 * SECOND}, 0),
        (RunStatus.PROMOTED, {}, 0),
    ],
)
def test_a_job_is_started_while_there_is_a_run_that_nobody_is_at_work_on(
    scaler: Session, status: RunStatus, columns: dict[str, timedelta], waits: int
) -> None:
    # By the clock that the question goes by, which stands still in a transaction.
    times = {name: func.now() + ahead for name, ahead in columns.items()}
    scaler.add(TrainingRun(status=status, asked_by="test", **times))
    assert answer(scaler, RUN_WAITS) == waits


def test_the_scaler_reads_nothing_else_and_writes_nothing(scaler: Session) -> None:
    refused = ("SELECT score FROM cases", "SELECT * FROM cases", "SELECT FROM images", "SELECT FROM api_keys")
    for statement in (*refused, "UPDATE cases SET status = 'failed'", "DELETE FROM training_runs"):
        with pytest.raises(ProgrammingError, match="permission denied"), scaler.begin_nested():
            answer(scaler, statement)


def test_the_questions_read_no_settled_case(scaler: Session) -> None:
    """Of which there may be millions: both go through an index of those that wait."""
    tenant = make_tenant(scaler)
    make_case(scaler, tenant, CaseStatus.QUEUED)
    reading.copy(scaler, "cases", make_case(scaler, tenant, CaseStatus.DECIDED).id, "submission_id")
    for query in (WAITING, LATENESS):
        with reading.reading_few(scaler, "cases"):
            answer(scaler, query)
