"""Settings: read from the environment, refused with the variable's name and the fix."""

from pathlib import Path

import pytest

from transcriber_operator.settings import Address, Settings, SettingsError, describe, variable

NEEDED = {"TRANSCRIBER_SERVING_IMAGE": "serving:1", "TRANSCRIBER_OPERATOR_NAMESPACE": "transcriber-system"}


def test_what_is_not_set_has_its_default() -> None:
    settings = Settings.from_environment(NEEDED)
    assert settings.namespaces == ()
    assert settings.debug_address == Address("127.0.0.1", 8082)
    assert settings.kubeconfig is None


def test_every_variable_is_read() -> None:
    settings = Settings.from_environment(
        NEEDED
        | {
            "TRANSCRIBER_NAMESPACES": "speech, calls,",
            "TRANSCRIBER_HTTPS_HOSTS": "models.example",
            "TRANSCRIBER_METRICS_NAMESPACES": "monitoring, keda",
            "TRANSCRIBER_LEASE_NAME": "other",
            "TRANSCRIBER_RESYNC_SECONDS": "60",
            "TRANSCRIBER_API_CALLS_PER_SECOND": "10",
            "TRANSCRIBER_METRICS_ADDRESS": "[::]:9090",
            "TRANSCRIBER_METRICS_URL": "http://operator.transcriber-system.svc:8080/",
            "TRANSCRIBER_HEALTH_ADDRESS": "127.0.0.1:0",
            "TRANSCRIBER_DEBUG_ADDRESS": "[::1]:9092",
            "TRANSCRIBER_KUBECONFIG": "kube.config",
            "TRANSCRIBER_LOG_FORMAT": "Text",
            "TRANSCRIBER_LOG_LEVEL": "Debug",
        }
    )
    assert settings == Settings(
        serving_image="serving:1",
        operator_namespace="transcriber-system",
        namespaces=("speech", "calls"),
        https_hosts=("models.example",),
        metrics_namespaces=("monitoring", "keda"),
        lease_name="other",
        resync_seconds=60,
        api_calls_per_second=10,
        metrics_address=Address("::", 9090),
        metrics_url="http://operator.transcriber-system.svc:8080",
        health_address=Address("127.0.0.1", 0),
        debug_address=Address("::1", 9092),
        kubeconfig=Path("kube.config"),
        log_format="Text",
        log_level="Debug",
    )
    assert str(settings.metrics_address) == "[::]:9090"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRANSCRIBER_RESYNC_SECONDS", "soon", "TRANSCRIBER_RESYNC_SECONDS must be a whole number; got 'soon'"),
        ("TRANSCRIBER_RESYNC_SECONDS", "5", "TRANSCRIBER_RESYNC_SECONDS must be at least 10; got 5"),
        ("TRANSCRIBER_RESYNC_SECONDS", "90000", "TRANSCRIBER_RESYNC_SECONDS must be at most 86400; got 90000"),
        ("TRANSCRIBER_NAMESPACES", "speech,Calls", "TRANSCRIBER_NAMESPACES must hold lower-case letters"),
        ("TRANSCRIBER_HTTPS_HOSTS", "https://models.example", "TRANSCRIBER_HTTPS_HOSTS must hold host names in lower case"),
        ("TRANSCRIBER_METRICS_ADDRESS", "8080", "TRANSCRIBER_METRICS_ADDRESS must be IP:PORT such as 0.0.0.0:8080; got '8080'"),
        ("TRANSCRIBER_METRICS_ADDRESS", "0.0.0.0:http", "must end with a port below 65536"),
        ("TRANSCRIBER_HEALTH_ADDRESS", "0.0.0.0:70000", "must end with a port below 65536"),
        ("TRANSCRIBER_METRICS_URL", "operator:8080", "TRANSCRIBER_METRICS_URL must be a URL such as http://transcriber-operator."),
        ("TRANSCRIBER_METRICS_URL", "http://operator/?a=b", "must be a URL such as"),
        ("TRANSCRIBER_DEBUG_ADDRESS", "0.0.0.0:8082", "TRANSCRIBER_DEBUG_ADDRESS must be on loopback"),
        ("TRANSCRIBER_LOG_FORMAT", "yaml", "TRANSCRIBER_LOG_FORMAT must be 'Auto', 'Json' or 'Text'; got 'yaml'"),
        ("TRANSCRIBER_RESYNC_SECOND", "60", "TRANSCRIBER_RESYNC_SECOND is no setting; did you mean TRANSCRIBER_RESYNC_SECONDS?"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variable_and_the_fix(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment(NEEDED | {name: value})
    assert words in str(refusal.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({"TRANSCRIBER_LOG_LEVEL": "loud", "TRANSCRIBER_SERVING_IMAGE": " "})
    lines = str(refusal.value).splitlines()
    assert [line.split()[0] for line in lines] == [
        "TRANSCRIBER_SERVING_IMAGE", "TRANSCRIBER_OPERATOR_NAMESPACE", "TRANSCRIBER_LOG_LEVEL"
    ]  # fmt: skip


def test_in_a_pod_the_operators_namespace_is_known(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    file.write_text("from-the-pod\n")
    assert Settings.from_environment({"TRANSCRIBER_SERVING_IMAGE": "serving:1"}, file).operator_namespace == "from-the-pod"
    assert Settings.from_environment(NEEDED, file).operator_namespace == "transcriber-system"


def test_what_kubernetes_sets_for_a_service_of_a_similar_name_is_left_alone() -> None:
    links = {
        "TRANSCRIBER_HTTPS_PORT": "tcp://10.0.0.1:8443",
        "TRANSCRIBER_LOG_PORT": "tcp://10.0.0.1:8080",
        "TRANSCRIBER_METRICS_SERVICE_HOST": "10.0.0.1",
        "TRANSCRIBER_METRICS_PORT_8080_TCP_ADDR": "10.0.0.1",
        "TRANSCRIBER_PYTHON": "of another program",
    }
    assert Settings.from_environment(NEEDED | links) == Settings.from_environment(NEEDED)


def test_help_names_every_variable_with_its_default() -> None:
    text = describe()
    for field in Settings.model_fields:
        assert variable(field) in text
    assert "(required)" in text
    assert "default: 0.0.0.0:8080" in text
