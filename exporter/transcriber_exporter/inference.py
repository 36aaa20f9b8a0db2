"""The part of the KServe v2 gRPC inference protocol that a canary speaks: one call, its request and its response.

The messages are described here, by the protocol's own field numbers, and not imported from Triton's client package, which would
bring numpy and more memory than a sidecar may take. Fields that are not named here are skipped, as protobuf does.
"""

import json
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
PACKAGE: Final = "inference"
STRING, BYTES, INT64, BOOL = (
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
)
# Message -> (field, number, type or name of a message, repeated); a map is, on the wire, repeated entries of key and value
MESSAGES: Final = {
    "Tensor": (("name", 1, STRING, False), ("datatype", 2, STRING, False), ("shape", 3, INT64, True)),
    "Parameter": (("bool_param", 1, BOOL, False),),
    "ParameterEntry": (("key", 1, STRING, False), ("value", 2, "Parameter", False)),
    "ModelInferRequest": (
        ("model_name", 1, STRING, False),
        ("parameters", 4, "ParameterEntry", True),
        ("inputs", 5, "Tensor", True),
        ("outputs", 6, "Tensor", True),
        ("raw_input_contents", 7, BYTES, True),
    ),
    "ModelInferResponse": (("outputs", 5, "Tensor", True), ("raw_output_contents", 6, BYTES, True)),
}
CANARY_PARAMETER: Final = "transcriber_canary"  # what `transcribe` knows a canary by, so that it counts as no work
LENGTH_BYTES: Final = 4  # before each element of a raw string tensor, little endian


def encode_request(model: str, audio: bytes, options: dict[str, str]) -> bytes:
    """Return the request that has `model` transcribe a file of audio, marked as a canary."""
    request = _new("ModelInferRequest")
    request.model_name = model
    request.parameters.add(key=CANARY_PARAMETER).value.bool_param = True
    for name, value in (("AUDIO", audio), ("OPTIONS", json.dumps(options).encode())):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(value).to_bytes(LENGTH_BYTES, "little") + value)
    request.outputs.add(name="RESULT")
    return bytes(request.SerializeToString())


def decode_text(response: bytes) -> str:
    """Return the text of a response's transcript; raises ValueError where it holds none."""
    message = _new("ModelInferResponse")
    try:
        message.ParseFromString(response)
    except DecodeError as error:
        raise ValueError(f"the answer is not of the protocol: {error}") from error
    names = [output.name for output in message.outputs]
    if "RESULT" not in names or len(message.raw_output_contents) != len(names):
        raise ValueError(f"the answer has the outputs {names}, not RESULT")
    result = json.loads(message.raw_output_contents[names.index("RESULT")][LENGTH_BYTES:])
    if not (isinstance(result, dict) and isinstance(result.get("text"), str)):
        raise ValueError("RESULT is JSON, but no transcript: it has no text")
    return str(result["text"])


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="transcriber_exporter/inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = (
                descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
                if repeated
                else descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )
            is_message = isinstance(kind, str)
            message.field.add(
                name=field,
                number=number,
                type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE if is_message else kind,
                label=label,
                type_name=f".{PACKAGE}.{kind}" if is_message else None,
            )
    return file


# A pool of its own: Triton's client registers messages of the same names in the default one.
_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_describe())


def _new(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))()
