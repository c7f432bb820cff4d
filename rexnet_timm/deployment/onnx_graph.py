"""An exported program as an ONNX graph: its names, its metadata, and cuts that copy once."""
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import onnx

__all__ = ['cut_by_slices', 'onnx_model', 'pool_by_name']


def onnx_model(
        program: torch.export.ExportedProgram, names: Mapping[int, str], output: str, metadata: Mapping[str, str],
) -> 'onnx.ModelProto':
    """The ONNX model of a program with one input, 'images', and one output.

    Args:
        program: The program, its dimensions free as `names` says.
        names: Of the free dimensions of the images, by their index.
        output: Name of the output.
        metadata: Texts by name, for the model's metadata_props.
    """
    from onnx import helper

    model = torch.onnx.export(
        program, dynamo=True, dynamic_shapes=(names,), input_names=['images'], output_names=[output],
        external_data=False, verbose=False).model_proto
    for node in model.graph.node:  # where in the sources on this machine each is from
        del node.metadata_props[:]
    for value in model.graph.value_info:
        del value.metadata_props[:]
    cut_by_slices(model.graph)
    pool_by_name(model.graph)
    helper.set_model_props(model, dict(metadata))
    return model


def cut_by_slices(graph: 'onnx.GraphProto') -> None:
    """Cut the first rows and columns of a map by one Slice, in place.

    torch.export knows no slice of a free length, so that `grid.cut` picks rows and columns by their numbers. In ONNX
    that is two Gathers by a Range, which copy the map twice, the second one pixel by pixel.
    """
    from onnx import TensorProto, helper

    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    constants = {value.name: value for value in graph.initializer}

    def length(node: 'onnx.NodeProto | None', axis: int) -> str | None:
        """The name of the number of first rows or columns that a Gather picks; None where it picks others."""
        if node is None or node.op_type != 'Gather' or node.attribute[0].i != axis:
            return None
        numbers = makers.get(node.input[1])
        if numbers is not None and numbers.op_type == 'Reshape':
            numbers = makers.get(numbers.input[0])
        if numbers is None or numbers.op_type != 'Range':
            return None
        first, end, step = numbers.input
        return end if _value(constants.get(first)) == 0 and _value(constants.get(step)) == 1 else None

    nodes = []
    for node in graph.node:
        columns = length(node, -1)
        inner = makers.get(node.input[0]) if columns else None
        rows = length(inner, -2) if inner is not None and uses[inner.output[0]] == 1 else None
        if rows is None:
            nodes.append(node)
            continue
        name = node.output[0]
        ends = [f'{name}_height', f'{name}_width', f'{name}_size']
        nodes += [
            helper.make_node('Reshape', [rows, 'cut_vector'], [ends[0]]),
            helper.make_node('Reshape', [columns, 'cut_vector'], [ends[1]]),
            helper.make_node('Concat', ends[:2], [ends[2]], axis=0),
            helper.make_node('Slice', [inner.input[0], 'cut_starts', ends[2], 'cut_axes'], [name], name=f'{name}_cut')]
    if len(nodes) == len(graph.node):
        return
    graph.initializer.extend([
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in (('cut_vector', [-1]), ('cut_starts', [0, 0]), ('cut_axes', [2, 3]))])
    used, kept = {value.name for value in graph.output}, []
    for node in reversed(nodes):  # without the Gathers and Ranges that are left over
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    nodes = [helper.onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for values in (graph.initializer, graph.value_info):
        there = used | {name for node in nodes for name in node.output}
        for index in reversed(range(len(values))):
            if values[index].name not in there:
                del values[index]


def pool_by_name(graph: 'onnx.GraphProto') -> None:
    """Make GlobalAveragePool of means over the height and width of maps, in place: onnxruntime has it in int8."""
    from onnx import numpy_helper

    constants = {value.name: value for value in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    for node in graph.node:
        if node.op_type != 'ReduceMean' or len(node.input) != 2 or ranks.get(node.input[0]) != 4:
            continue
        axes = constants.get(node.input[1])
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == 'keepdims')
        if axes is not None and keeps and sorted(numpy_helper.to_array(axes) % 4) == [2, 3]:
            node.op_type = 'GlobalAveragePool'
            del node.input[1:], node.attribute[:]
    used = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def _value(tensor: 'onnx.TensorProto | None') -> float | None:
    """The value of a constant with one."""
    from onnx import numpy_helper

    values = [] if tensor is None else numpy_helper.to_array(tensor).ravel()
    return float(values[0]) if len(values) == 1 else None
