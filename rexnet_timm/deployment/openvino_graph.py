"""An ONNX graph as OpenVINO's, in the forms that its CPU plugin and NNCF's quantiser know."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino

__all__ = ['openvino_model']


def openvino_model(graph: bytes) -> 'openvino.Model':
    """The OpenVINO model of an ONNX graph."""
    import openvino
    from openvino.passes import ConstantFolding, Manager

    model = openvino.Core().read_model(graph)
    fuse_swish(model)
    # weights of depthwise convolutions come through a Reshape, whose axes NNCF takes for those of other channels
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    return model


def fuse_swish(model: 'openvino.Model') -> None:
    """Replace x * sigmoid(x) by Swish, in place; a quantiser would round both factors, and the pair runs unfused."""
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() != 'Multiply':
            continue
        first, second = node.input_value(0), node.input_value(1)
        for x, gate in ((first, second.get_node()), (second, first.get_node())):
            if gate.get_type_name() == 'Sigmoid' and gate.input_value(0) == x:
                swish = opset13.swish(x)
                swish.set_friendly_name(node.get_friendly_name())
                for user in node.output(0).get_target_inputs():
                    user.replace_source_output(swish.output(0))
                break
