"""The build: a ConfigMap with the build document, the container that builds from it, and the Job that runs it once."""

from collections.abc import Sequence
from typing import Final

from transcriber_operator.render import names, pod
from transcriber_operator.render.context import Context, Manifest
from transcriber_operator.render.sources import credentials, source_claims

CONTAINER: Final = "build"
PROGRESS_PORT_NAME: Final = "progress"
HTTPS_HOSTS_VARIABLE: Final = "TRANSCRIBER_HTTPS_HOSTS"
# Exit codes of transcriber_repository whose reason another try cannot cure: InvalidSpec, SourceRefused, ChecksumMismatch,
# UnsupportedFormat, DraftIncompatible, RepositoryCorrupt. SourceUnavailable (4) and StorageFailed (10) are tried again.
TERMINAL_EXIT_CODES: Final = (3, 5, 6, 7, 8, 9)


def config_map(context: Context) -> Manifest:
    """Return the ConfigMap that holds the build document."""
    return names.child(
        context,
        "v1",
        "ConfigMap",
        names.config_name(context),
        names.BUILD,
        annotations={names.REVISION_ANNOTATION: context.key},
        immutable=True,
        data={pod.DOCUMENT_FILE: context.build_document},
    )


def build_job(context: Context, keep: Sequence[str] = ()) -> Manifest:
    """Return the Job that builds this revision; `keep` are the digests that it leaves on the claim beside its own.

    Its manifest hash leaves `keep` out: what is in use changes while a build runs, and that must not start it again.
    """
    bare = _job(context, ())
    job = _job(context, keep)
    job["metadata"] = bare["metadata"]
    return job


def build_container(context: Context, progress_port: int, keep: Sequence[str] = (), sub_path: str | None = None) -> Manifest:
    """Return the container that builds into /repositories and reports its progress at `progress_port`."""
    spec = context.spec
    claims, secrets = source_claims(spec), credentials(spec)
    command = ["python3", "-m", "transcriber_repository", "build", "--spec", f"{pod.DOCUMENT_DIR}/{pod.DOCUMENT_FILE}"]
    command += ["--root", pod.REPOSITORIES_DIR, "--result", "/dev/termination-log"]
    for claim in claims:
        command += ["--volume", f"{claim}=/volumes/{claim}"]
    for role, _ in secrets:
        command += ["--credentials", f"{role}=/credentials/{role}"]
    for digest in sorted(set(keep)):
        command += ["--keep", digest]
    command += ["--progress-address", f"$(POD_IP):{progress_port}"]
    mounts = [
        pod.mount("repositories", pod.REPOSITORIES_DIR, sub_path=sub_path),
        pod.mount("document", pod.DOCUMENT_DIR, read_only=True),
        pod.mount("tmp", "/tmp"),  # noqa: S108 - an emptyDir of the pod's own
        *(pod.mount(f"source-{index}", f"/volumes/{claim}", read_only=True) for index, claim in enumerate(claims)),
        *(pod.mount(f"credentials-{role}", f"/credentials/{role}", read_only=True) for role, _ in secrets),
    ]
    hosts = ",".join(sorted(context.https_hosts))
    return pod.container(
        CONTAINER,
        context.image,
        command,
        env=[pod.POD_IP, *([{"name": HTTPS_HOSTS_VARIABLE, "value": hosts}] if hosts else [])],
        ports=[{"name": PROGRESS_PORT_NAME, "containerPort": progress_port}],
        resources=pod.resources(spec.repository.build.resources),
        volumeMounts=mounts,
    )


def build_volumes(context: Context) -> list[Manifest]:
    """Return the volumes that a build reads: the document, source claims and Secrets."""
    return [
        {"name": "document", "configMap": {"name": names.config_name(context)}},
        *(pod.claim_volume(f"source-{index}", claim) for index, claim in enumerate(source_claims(context.spec))),
        *({"name": f"credentials-{role}", "secret": {"secretName": name}} for role, name in credentials(context.spec)),
    ]


def _job(context: Context, keep: Sequence[str]) -> Manifest:
    build = context.spec.repository.build
    assert context.claim is not None, "without a claim each serving pod builds for itself"
    template = pod.pod_template(
        context,
        names.BUILD,
        {
            "restartPolicy": "Never",
            # Each resource has a folder of the claim to itself, so that collecting never touches another's repositories.
            "containers": [build_container(context, pod.PROGRESS_PORT, keep, sub_path=context.name)],
            "volumes": [
                pod.claim_volume("repositories", context.claim),
                pod.empty_dir("tmp"),
                *build_volumes(context),
            ],
        },
    )
    failing = {"containerName": CONTAINER, "operator": "In", "values": list(TERMINAL_EXIT_CODES)}
    return names.child(
        context,
        "batch/v1",
        "Job",
        names.job_name(context),
        names.BUILD,
        annotations={names.REVISION_ANNOTATION: context.key},
        spec={
            "backoffLimit": build.backoff_limit,
            "activeDeadlineSeconds": build.timeout_seconds,
            # A pod that still ends is not joined by another: two would fight for the folder's lock.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": failing},
                    # A node that is taken away says nothing about the build.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": template,
        },
    )
