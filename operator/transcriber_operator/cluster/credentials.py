"""Where the API server is and as whom we speak to it: the pod's service account, or a kubeconfig."""

from pathlib import Path

from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from transcriber_operator.errors import OperatorError


async def load_configuration(kubeconfig: Path | None) -> Configuration:
    """Read the credentials anew; without a kubeconfig those of the pod, whose token file is read again every minute.

    Raises OperatorError where there are none.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
            )
    except (ConfigException, OSError) as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "no service account of a pod; set TRANSCRIBER_KUBECONFIG to a file"
        raise OperatorError(f"cannot read how to reach the API server from {where}: {error}") from error
    # Like Kopf's own session: no proxy of the environment between a pod and its API server; a kubeconfig's proxy-url counts.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.retries = None  # the passes try again, with backoff
    return configuration
