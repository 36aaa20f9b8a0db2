"""The table of GPUs, what it answers, and whether a model fits."""

from typing import Any

import pytest

from tests.unit.operator.specs import DRAFT, SHA256, TARGET, claim_spec
from transcriber_api.capacity import Pool
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.render import fit, gpus

KARPENTER = {"provisioner": "Karpenter", "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}}


def pool(**parts: Any) -> Pool:
    return Pool.model_validate({"name": "main", **parts})


def spec(*gpu_names: str, **parts: Any) -> Spec:
    pools = [{"name": "main", "gpus": list(gpu_names)}]
    return Spec.model_validate(claim_spec(**{"capacity": {**KARPENTER, "pools": pools}, **parts}))


def model(uri: str) -> dict[str, Any]:
    return {"target": {"uri": uri, "files": [{"path": "model.safetensors", "sha256": SHA256}]}}


def test_every_instance_type_has_a_gpu_of_the_table_and_costs_more_than_a_smaller_one():
    for entry in gpus.INSTANCE_TYPES.values():
        assert entry.gpu in gpus.GPUS
        smaller = [
            other for other in gpus.INSTANCE_TYPES.values() if other.gpu == entry.gpu and other.millicores < entry.millicores
        ]
        assert all(other.price_per_hour < entry.price_per_hour for other in smaller)


def test_spot_is_cheaper_than_on_demand_by_the_saving_of_the_gpu():
    assert gpus.price_per_hour("g6.xlarge", "on-demand") == 0.8048
    assert gpus.price_per_hour("g6.xlarge", "spot") == pytest.approx(0.8048 * 0.54)


def test_an_instance_type_that_is_not_in_the_table_has_no_price():
    assert gpus.price_per_hour("p5.48xlarge", "spot") is None


def test_a_pool_costs_what_its_cheapest_instance_type_does():
    assert gpus.pool_price_per_hour(pool(gpus=["a10g", "l4"])) == 0.8048
    assert gpus.pool_price_per_hour(pool(gpus=["a10g", "l4"], capacityType="Spot")) == pytest.approx(1.006 * 0.38)


def test_the_price_that_the_pool_gives_wins_over_the_table():
    assert gpus.pool_price_per_hour(pool(gpus=["l4"], pricePerHour="0.35")) == 0.35


def test_a_pool_of_gpus_that_the_table_does_not_have_has_no_price():
    assert gpus.pool_price_per_hour(pool(gpus=["z9"])) is None


def test_the_price_is_that_of_an_instance_type_that_has_room_for_the_pod():
    wide = spec("l4", runtime={"resources": {"requests": {"cpu": "6"}}})
    [its] = wide.capacity.pools
    assert gpus.pool_price_per_hour(its, fit.candidates(wide, its)) == 0.9776


def test_a_pool_without_gpus_may_use_every_instance_type_but_those_of_another_architecture():
    found = {entry.gpu for entry in gpus.instance_types(pool())}
    assert found == {entry.gpu for entry in gpus.INSTANCE_TYPES.values()} - {"t4g"}


def test_a_selected_instance_type_is_the_only_one():
    selected = pool(gpus=["l4"], nodeSelector={"node.kubernetes.io/instance-type": "g6.2xlarge"})
    assert [entry.name for entry in gpus.instance_types(selected)] == ["g6.2xlarge"]


@pytest.mark.parametrize(
    ("names", "architecture"), [([], "amd64"), (["t4g"], "arm64"), (["t4g", "l4"], "amd64"), (["z9"], "amd64")]
)
def test_nodes_are_amd64_unless_every_gpu_comes_with_arm_alone(names: list[str], architecture: str):
    assert gpus.architecture(pool(gpus=names)) == architecture


def test_the_throughput_to_begin_with_is_that_of_the_slowest_gpu():
    assert gpus.prior_throughput(pool(gpus=["l40s", "l4"])) == gpus.prior_throughput(pool(gpus=["l4"])) == 90
    assert 0 < gpus.prior_throughput(pool(gpus=["z9"])) <= gpus.prior_throughput(pool())


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://openai/whisper-large-v3", "large-v3"),
        ("hf://openai/whisper-large-v3-turbo", "large-v3-turbo"),
        ("hf://openai/whisper-base.en", "base"),
        ("hf://Systran/faster-whisper-medium", "medium"),
        ("hf://distil-whisper/distil-large-v3.5", "distil-large-v3.5"),
        ("hf://distil-whisper/distil-large-v3.5-ct2", "distil-large-v3.5"),
        ("s3://models/whisper-large-v2/", "large-v2"),
        ("pvc://whisper/turbo", "large-v3-turbo"),
        ("pvc://whisper/large-v3-german", None),
        ("pvc://models/whisper-base-draft", None),
        ("pvc://models/base", None),
        ("pvc://models/data-base", None),
        ("hf://someone/whisper-medical-large", None),
    ],
)
def test_a_model_is_known_by_its_name(uri: str, name: str | None):
    found = fit.architecture_of(uri)
    assert (found.name if found else None) == name


# As their authors give them, in millions.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 39),
        ("base", 74),
        ("small", 244),
        ("medium", 769),
        ("large-v3", 1550),
        ("large-v3-turbo", 809),
        ("distil-large-v3", 756),
    ],
)
def test_the_parameters_of_a_model_are_those_that_its_authors_give(name: str, millions: int):
    architecture = fit.ARCHITECTURES[name]
    assert (architecture.encoder_parameters + architecture.decoder_parameters) / 1e6 == pytest.approx(millions, rel=0.05)


def test_slots_cost_what_the_caches_of_a_slot_hold():
    few, many = fit.need(spec("l4", runtime={"slots": 8})), fit.need(spec("l4", runtime={"slots": 9}))
    assert few is not None
    assert many is not None
    # Keys and values of 34 layers (target and draft) of 1280 at 1500 frames and 465 positions in 2 bytes: 342 MB of them.
    caches = 2 * 34 * 1280 * 1965 * 2
    assert caches < many.total_bytes - few.total_bytes < caches * 1.05


def test_a_draft_takes_memory_only_where_it_is_used():
    with_draft = fit.need(spec("l4"))
    without = fit.need(spec("l4", decoding={"draftSource": "None"}))
    assert with_draft is not None
    assert without is not None
    assert without.total_bytes < with_draft.total_bytes


@pytest.mark.parametrize(
    "parts",
    [
        {"model": model("pvc://models/tuned")},
        {"runtime": {"gpuResourceName": "nvidia.com/mig-1g.10gb"}},
        {"runtime": {"device": "CPU"}, "model": {"target": TARGET, "precision": "Float32"}},
    ],
    ids=["a model of another name", "a share of a GPU", "no GPU"],
)
def test_what_is_not_known_is_not_judged(parts: dict[str, Any]):
    given = spec(**parts)
    assert fit.need(given) is None
    assert fit.unfit(given) is None
    assert fit.left_out(given) == ()


def test_a_model_that_no_gpu_of_a_pool_can_hold_is_told_with_the_sum_and_two_remedies():
    sentence = fit.unfit(spec("t4", runtime={"slots": 64}))
    assert sentence is not None
    assert sentence.startswith("The model fits no GPU of pool main: whisper-large-v3 in Float16 needs at least 3.0 GiB of ")
    assert "weights + 64 slots x 0.32 GiB + 0.8 GiB for two processes = 24.3 GiB, and t4 has 14.8 GiB" in sentence
    assert sentence.endswith("lower runtime.slots to 34 or take l40s.")


def test_as_many_slots_as_the_remedy_says_do_fit_and_one_more_does_not():
    most = fit.need(spec("t4", runtime={"slots": 64}))
    assert most is not None
    slots = most.slots_on(gpus.GPUS["t4"])
    assert fit.unfit(spec("t4", runtime={"slots": slots})) is None
    assert fit.unfit(spec("t4", runtime={"slots": slots + 1})) is not None


def test_a_model_that_fits_no_gpu_with_a_single_slot_needs_another_gpu():
    draft = {"target": TARGET, "draft": DRAFT, "precision": "Float32"}
    small = fit.unfit(spec("t4", model=draft, runtime={"slots": 512}))
    assert small is not None
    assert "take h100" not in small  # 512 slots of Float32 fit none that comes alone
    assert small.endswith("or take a smaller model.")


def test_bfloat16_needs_a_gpu_that_computes_in_it():
    sentence = fit.unfit(spec("t4", model={"target": TARGET, "precision": "BFloat16"}))
    assert sentence == "The model fits no GPU of pool main: t4 does not compute in BFloat16; set model.precision to Float16."


def test_a_gpu_that_is_too_small_is_left_out_beside_one_that_is_not():
    given = spec("t4", "l4", runtime={"slots": 48})
    [its] = given.capacity.pools
    assert fit.unfit(given) is None
    assert fit.fitting_gpus(given, its) == ("l4",)
    [sentence] = fit.left_out(given)
    assert sentence.startswith("Pool main goes without t4: whisper-large-v3")


def test_a_gpu_that_the_table_does_not_have_may_fit():
    given = spec("z9", "t4", runtime={"slots": 512})
    [its] = given.capacity.pools
    assert fit.unfit(given) is None
    assert fit.fitting_gpus(given, its) == ("z9",)


@pytest.mark.parametrize("slots", [1, 16, 35, 36, 37, 54, 120])
def test_a_gpu_holds_as_many_slots_as_it_says_and_no_more(slots: int):
    wanted = fit.need(spec("l4", runtime={"slots": slots}))
    assert wanted is not None
    for gpu in gpus.GPUS.values():
        assert wanted.fits(gpu) == (slots <= wanted.slots_on(gpu))


@pytest.mark.parametrize("slots", [1, 16, 35, 36, 37, 54, 120])
def test_a_pool_that_takes_every_gpu_gets_none_that_is_too_small(slots: int):
    given = spec(runtime={"slots": slots})
    wanted, label = fit.need(given), fit.labelled_mebibytes(given, given.capacity.pools[0])
    assert wanted is not None
    assert label is not None
    admitted = [gpu for gpu in gpus.GPUS.values() if gpu.memory_mebibytes >= label]
    assert admitted
    assert all(wanted.fits(gpu) for gpu in admitted)


@pytest.mark.parametrize("slots", [1, 16, 35, 36, 37, 54, 120])
def test_every_gpu_that_a_pool_names_and_that_fits_is_admitted(slots: int):
    given = spec(*gpus.GPUS, runtime={"slots": slots})
    [its] = given.capacity.pools
    label = fit.labelled_mebibytes(given, its)
    assert label is not None
    assert all(gpus.GPUS[name].memory_mebibytes >= label for name in fit.fitting_gpus(given, its))


def test_a_limit_counts_as_a_request_where_there_is_none():
    assert fit.requested(spec(runtime={"resources": {"limits": {"cpu": "4", "memory": "8Gi"}}})) == (4050, 8192 + 96)
    asked = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}}
    assert fit.requested(spec(runtime={"resources": asked})) == (550, 1024 + 96)


def test_without_karpenter_the_gpus_are_not_known_and_so_not_judged():
    given = Spec.model_validate(claim_spec(runtime={"slots": 512}))
    assert fit.unfit(given) is None
