"""The canary's messages are those of the protocol: Triton's own generated ones read and write the same bytes."""

import json

import pytest
from tritonclient.grpc import service_pb2

from transcriber_exporter.inference import METHOD, decode_text, encode_request


def response(**outputs: bytes) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="transcribe", model_version="1", id="7")
    for name, content in outputs.items():
        message.outputs.add(name=name, datatype="BYTES", shape=[1])
        message.raw_output_contents.append(len(content).to_bytes(4, "little") + content)
    return message.SerializeToString()


def test_a_request_is_read_by_tritons_own_messages() -> None:
    request = service_pb2.ModelInferRequest.FromString(encode_request("transcribe", b"audio", {"language": "en"}))
    expected = service_pb2.ModelInferRequest(model_name="transcribe")
    expected.parameters["transcriber_canary"].bool_param = True
    for name, content in (("AUDIO", b"\x05\0\0\0audio"), ("OPTIONS", b'\x12\0\0\0{"language": "en"}')):
        expected.inputs.add(name=name, datatype="BYTES", shape=[1])
        expected.raw_input_contents.append(content)
    expected.outputs.add(name="RESULT")
    assert request == expected


def test_the_method_is_tritons_own() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert f"/{service.full_name}/ModelInfer" == METHOD
    assert "ModelInfer" in service.methods_by_name


def test_the_text_of_a_response_of_triton_is_read_among_other_outputs() -> None:
    result = json.dumps({"text": "größer 漢", "segments": []}).encode()
    assert decode_text(response(TOKENS=b"1234", RESULT=result)) == "größer 漢"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (response(), "has the outputs"),
        (response(TOKENS=b"1"), "has the outputs"),
        (response(RESULT=b"no json"), "Expecting value"),
        (response(RESULT=b"[]"), "has no text"),
        (response(RESULT=b'{"text": null}'), "has no text"),
        (response(RESULT=b"\xc3("), "utf-8"),
        (b"\xff\xff\xff", "is not of the protocol"),
    ],
)
def test_a_response_without_a_transcript_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_text(content)
