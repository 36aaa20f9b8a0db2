"""Matrix products in eight-bit integers, by ONNX Runtime on CPU, whose rows do not depend on which others are computed with them.

Dynamic quantisation as ONNX Runtime ships it takes one scale for a whole batch, so that a row's result depends on the rows beside
it. Here each row has its own: of the row x, a = round(x / s) with s = max|x| / 127; of each output's weights, q = round(w / t) with
t = max|w| / 127. Then y = s t Σ a q + b, where the sum is one of integers and therefore exact in any order, and all else is done
number by number.
"""

from functools import cache
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

MOST_THREADS: Final = 8  # each product has threads of its own, which sleep between calls; a model has about a hundred products
ROWS_AT_ONCE: Final = 256  # what is between the steps stays small, and in the processor's cache
FLOAT_BYTES: Final = 4
LARGEST: Final = 127
ZERO_POINT: Final = 128  # rows are unsigned to ONNX Runtime, whose kernels are fast for unsigned by signed
SMALLEST_SCALE: Final = float(np.finfo(np.float32).tiny)
OPSETS: Final = (helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1))
IR_VERSION: Final = 10


class QuantizedLinear(nn.Module):
    """`y = x Wᵀ + b` for float32 x of shape [..., inputs] and W of shape [outputs, inputs], both quantised; on CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape
        self.session = _session(_model(weight.float(), bias))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], self.outputs)
        rows = y.numel() // self.outputs
        for first in range(0, rows, ROWS_AT_ONCE):
            count = min(rows - first, ROWS_AT_ONCE)
            binding = self.session.io_binding()
            binding.bind_input("x", "cpu", 0, np.float32, (count, self.inputs), x.data_ptr() + first * self.inputs * FLOAT_BYTES)
            binding.bind_output("y", "cpu", 0, np.float32, (count, self.outputs), y.data_ptr() + first * self.outputs * FLOAT_BYTES)
            self.session.run_with_iobinding(binding)
        return y


def quantize_linears(module: nn.Module) -> None:
    """Put a QuantizedLinear in the place of every `nn.Linear` below a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, QuantizedLinear(child.weight, child.bias))
        else:
            quantize_linears(child)


def _model(weight: Tensor, bias: Tensor | None) -> bytes:
    """Write the product as ONNX: x [rows, inputs] -> y [rows, outputs]."""
    outputs, inputs = weight.shape
    scale = (weight.abs().amax(dim=1) / LARGEST).clamp(min=SMALLEST_SCALE)
    constants = {
        "last": np.array([-1]),
        "one": np.float32(1),
        "per_step": np.float32(1 / LARGEST),
        "smallest": np.float32(SMALLEST_SCALE),
        "zero_point": np.uint8(ZERO_POINT),
        "weight": (weight / scale[:, None]).round().to(torch.int8).t().contiguous().numpy(),
        "weight_scale": scale.numpy(),
    }
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size", "last"], ["largest"]),
        helper.make_node("Mul", ["largest", "per_step"], ["step"]),
        helper.make_node("Max", ["step", "smallest"], ["scale"]),
        helper.make_node("Div", ["x", "scale"], ["steps"]),
        helper.make_node("QuantizeLinear", ["steps", "one", "zero_point"], ["quantized"]),
        helper.make_node(
            "MatMulIntegerToFloat",
            ["quantized", "weight", "one", "weight_scale", "zero_point"],
            ["product"],
            domain="com.microsoft",
        ),
        helper.make_node("Mul", ["product", "scale"], ["y" if bias is None else "without_bias"]),
    ]
    if bias is not None:
        constants["bias"] = bias.float().numpy()
        nodes.append(helper.make_node("Add", ["without_bias", "bias"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "quantized_linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return _serialized(graph)


def _session(model: bytes, *, careful: bool | None = None) -> onnxruntime.InferenceSession:
    """Load a model; `careful` is whether its products are to be computed by kernels that never overflow (default: if need be)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(torch.get_num_threads(), MOST_THREADS)
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # each product would keep its own; the allocator is as fast
    # Threads that spin while they wait would take the cores from those of torch, which compute between two products.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if _overflows() if careful is None else careful:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def _overflows() -> bool:
    """Measure whether the fast kernels overflow here: those for x86 CPUs without VNNI add two products in sixteen bits.

    The others take less than half of the time of those that are exact everywhere.
    """
    inputs, most = 64, 255
    node = helper.make_node("MatMulInteger", ["x", "weight"], ["y"])
    graph = helper.make_graph(
        [node],
        "largest_products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["rows", 1])],
        [numpy_helper.from_array(np.full((inputs, 1), LARGEST, np.int8), "weight")],
    )
    session = _session(_serialized(graph), careful=False)
    products = [session.run(None, {"x": np.full((rows, inputs), most, np.uint8)})[0] for rows in (1, 16)]
    return any((product != inputs * most * LARGEST).any() for product in products)


def _serialized(graph: onnx.GraphProto) -> bytes:
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION)
    return model.SerializeToString()
