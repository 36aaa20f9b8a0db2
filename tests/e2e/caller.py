"""Runs in a pod of the serving image: clients that call a Service by name, again and again, and print a line of JSON for each call.

`python3 caller.py TARGET RECORDING CLIENTS COUNT`: COUNT calls of each client, 0 for as long as the pod lives. A call is tried once
more where the code says that it may be.
"""

import json
import struct
import sys
import threading
import time

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

RETRIABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
CALL_SECONDS = 120.0
RETRY_SECONDS = 0.5
PAUSE_SECONDS = 0.2
OPTIONS = {"language": "en", "timestamps": "none"}
# Every address that the name has, and a new look at the name no later than this.
CHANNEL = [("grpc.lb_policy_name", "round_robin"), ("grpc.dns_min_time_between_resolutions_ms", 500)]


def request(recording: bytes) -> service_pb2.ModelInferRequest:
    """Ask for the transcript of a recording."""
    message = service_pb2.ModelInferRequest(model_name="transcribe")
    for name, content in (("AUDIO", recording), ("OPTIONS", json.dumps(OPTIONS).encode())):
        message.inputs.add(name=name, datatype="BYTES", shape=[1])
        message.raw_input_contents.append(struct.pack("<I", len(content)) + content)
    message.outputs.add(name="RESULT")
    return message


def call(stub: service_pb2_grpc.GRPCInferenceServiceStub, message: service_pb2.ModelInferRequest) -> dict[str, object]:
    """Call once, and once more if that is allowed; `text` is None where no answer came."""
    codes: list[str] = []
    began = time.monotonic()
    while True:
        try:
            answer = stub.ModelInfer(message, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            codes.append(error.code().name)
            if len(codes) == 2 or error.code() not in RETRIABLE:
                return {"text": None, "codes": codes, "details": error.details(), "seconds": time.monotonic() - began}
            time.sleep(RETRY_SECONDS)
        else:
            text = json.loads(answer.raw_output_contents[0][4:])["text"]
            return {"text": text, "codes": codes, "seconds": time.monotonic() - began}


def client(stub: service_pb2_grpc.GRPCInferenceServiceStub, message: service_pb2.ModelInferRequest, count: int) -> None:
    """Call, one call after the other."""
    done = 0
    while count == 0 or done < count:
        sys.stdout.write(json.dumps(call(stub, message)) + "\n")
        sys.stdout.flush()
        done += 1
        time.sleep(PAUSE_SECONDS)


def main(target: str, recording: str, clients: str, count: str) -> None:
    """Run the clients."""
    with open(recording, "rb") as file:  # noqa: PTH123 - no more than the image has
        message = request(file.read())
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(target, options=CHANNEL))
    threads = [threading.Thread(target=client, args=(stub, message, int(count)), daemon=True) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
