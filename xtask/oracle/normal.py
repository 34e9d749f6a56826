"""The normal form that loading and saving a model may bring it to, computed with the protobuf of `onnx` alone.

The rules are those in the documentation of the crate `squint-proto`: tensor data becomes raw, texts that are
present but empty become absent, and so on. Two models with the same normal form are the same model.
"""

import struct
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

_INT32_FORMATS = {
    TensorProto.INT32: "<i",
    TensorProto.UINT16: "<H",
    TensorProto.INT16: "<H",
    TensorProto.FLOAT16: "<H",
    TensorProto.BFLOAT16: "<H",
}
"""How an entry of `int32_data` lies in raw data; a byte for the types that are not listed."""


def normal(model: ModelProto, folder: Path) -> ModelProto:
    """Normalises in place; external data comes from `folder`."""
    _texts(model, "producer_name", "producer_version", "domain", "doc_string")
    for opset in model.opset_import:
        opset.domain = opset.domain
    _graph(model.graph, folder)
    for function in model.functions:
        _texts(function, "doc_string", "overload")
        for opset in function.opset_import:
            opset.domain = opset.domain
        for node in function.node:
            _node(node, folder)
        for attribute in function.attribute_proto:
            _attribute(attribute, folder)
        _sort_by_name(function.value_info)
    return model


def _graph(graph: GraphProto, folder: Path) -> None:
    _texts(graph, "name", "doc_string")
    for node in graph.node:
        _node(node, folder)
    for tensor in graph.initializer:
        _tensor(tensor, folder)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _texts(value, "doc_string")
    ends = {value.name for value in (*graph.input, *graph.output)}
    inner = {value.name: value for value in reversed(graph.value_info) if value.name not in ends}
    kept = [inner[name] for name in sorted(inner)]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    graph.quantization_annotation.sort(key=lambda annotation: annotation.tensor_name)


def _node(node: NodeProto, folder: Path) -> None:
    _texts(node, "name", "domain", "overload", "doc_string")
    for names in (node.input, node.output):
        while names and not names[-1]:
            del names[-1]
    for attribute in node.attribute:
        _attribute(attribute, folder)


def _attribute(attribute: AttributeProto, folder: Path) -> None:
    _texts(attribute, "doc_string")
    if attribute.ref_attr_name:
        return
    _give_type(attribute)
    for kind, field in ((AttributeProto.FLOAT, "f"), (AttributeProto.INT, "i"), (AttributeProto.STRING, "s")):
        if attribute.type == kind:
            setattr(attribute, field, getattr(attribute, field))
    tensors = list(attribute.tensors) + ([attribute.t] if attribute.HasField("t") else [])
    for tensor in tensors:
        _tensor(tensor, folder)
    graphs = list(attribute.graphs) + ([attribute.g] if attribute.HasField("g") else [])
    for graph in graphs:
        _graph(graph, folder)


def _give_type(attribute: AttributeProto) -> None:
    """IR version 1 had no types of attributes."""
    if attribute.type != AttributeProto.UNDEFINED:
        return
    present = {descriptor.name for descriptor, _ in attribute.ListFields()}
    names = {"f": "FLOAT", "i": "INT", "s": "STRING", "t": "TENSOR", "g": "GRAPH", "floats": "FLOATS", "ints": "INTS"}
    for field, name in (*names.items(), ("strings", "STRINGS"), ("tensors", "TENSORS"), ("graphs", "GRAPHS")):
        if field in present:
            attribute.type = AttributeProto.AttributeType.Value(name)


def _tensor(tensor: TensorProto, folder: Path) -> None:
    _texts(tensor, "doc_string")
    if uses_external_data(tensor):
        load_external_data_for_tensor(tensor, str(folder))
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    if tensor.data_type == TensorProto.STRING:
        return
    if not tensor.raw_data:
        tensor.raw_data = _raw(tensor)
    for field in ("float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
        tensor.ClearField(field)


def _raw(tensor: TensorProto) -> bytes:
    """The typed data field as raw bytes."""
    kind = tensor.data_type
    if kind in (TensorProto.FLOAT, TensorProto.COMPLEX64):
        return _packed("<f", tensor.float_data)
    if kind in (TensorProto.DOUBLE, TensorProto.COMPLEX128):
        return _packed("<d", tensor.double_data)
    if kind == TensorProto.INT64:
        return _packed("<q", tensor.int64_data)
    if kind == TensorProto.UINT64:
        return _packed("<Q", tensor.uint64_data)
    if kind == TensorProto.UINT32:
        return _packed("<I", tensor.uint64_data)
    if kind in (TensorProto.FLOAT6E2M3, TensorProto.FLOAT6E3M2):
        stream = sum(entry << (6 * i) for i, entry in enumerate(tensor.int32_data))
        return stream.to_bytes((6 * len(tensor.int32_data) + 7) // 8, "little")
    code = _INT32_FORMATS.get(kind, "<B")
    mask = {"<B": 0xFF, "<H": 0xFFFF}.get(code)
    return _packed(code, tensor.int32_data if mask is None else [entry & mask for entry in tensor.int32_data])


def _packed(code: str, entries) -> bytes:
    return b"".join(struct.pack(code, entry) for entry in entries)


def _texts(message, *fields: str) -> None:
    for field in fields:
        if not getattr(message, field):
            message.ClearField(field)


def _sort_by_name(values) -> None:
    values.sort(key=lambda value: value.name)
