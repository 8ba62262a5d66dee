"""An ONNX graph in the making."""

import numpy as np

from asc_jax.machine.optional_packages import require


class Writer:
    """Nodes and constants of a graph in the making."""

    def __init__(self):
        self.onnx = require("onnx")
        self.nodes, self.constants = [], []

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def constant(self, value, name: str | None = None) -> str:
        """Store an array as it is."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, value: np.ndarray, name: str) -> str:
        """Store an array of weights; whatever its dtype, the graph computes in float32."""
        stored = self.constant(np.ascontiguousarray(value), name)
        if value.dtype == np.float32:
            return stored
        return self.node("Cast", stored, to=self.onnx.TensorProto.FLOAT)

    def scalar(self, value: float) -> str:
        return self.constant(np.float32(value))

    def tensor(self, name: str, *shape):
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)
