"""Compare the kernels that squint predicts with those of a TensorRT engine.

    squint check model.onnx --target tensorrt --format json > predicted.json
    trtexec --onnx=model.onnx --stronglyTyped --profilingVerbosity=detailed --exportLayerInfo=layers.json --skipInference
    python examples/tensorrt/compare_layers.py predicted.json layers.json

Prints each predicted kernel whose nodes are not together in one layer of the engine, and each layer that holds nodes of
several predicted kernels; exits with 1 if there is one. (A model with findings makes `squint check` exit with 1, too; its
kernels are written all the same.)

The nodes of a layer are read from its `Metadata`, `[ONNX Layer: NAME]`, once for each node; a layer without it, or one
that is only a name (`--profilingVerbosity=layer_names_only`), is taken apart at ` + ` and `,`. Nodes that no layer names
were folded or renamed by TensorRT: they are counted and not compared. Needs Python 3.10 and nothing else.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\x1e|\[ONNX Layer: |$)", re.DOTALL)
WRAPPER = re.compile(r"^(?:PWN|ForeignNode|Reformatting CopyNode for .* Tensor \d+ to )?[({\[]*|[)}\]]*$")


def nodes_of_layer(layer, known):
    """Names of the ONNX nodes in a layer of the engine, of those that are known."""
    if isinstance(layer, dict):
        named = ONNX_NODE.findall(layer.get("Metadata", ""))
        if named:
            return {name for name in named if name in known}
        layer = layer.get("Name", "")
    parts = re.split(r" \+ |, ?|\.\.\.", layer)
    return {name for part in parts for name in (part.strip(), WRAPPER.sub("", part.strip())) if name in known}


def compare(predicted, layers):
    """What differs, a line each, and how many nodes were compared.

    predicted  the kernels of `squint check --format json`
    layers     the list `Layers` of `trtexec --exportLayerInfo`
    """
    kernels = {node: i for i, kernel in enumerate(predicted) for node in kernel["nodes"]}
    place = {}
    joined = []
    for number, layer in enumerate(layers):
        name = layer if isinstance(layer, str) else layer.get("Name", "")
        nodes = nodes_of_layer(layer, kernels)
        place.update(dict.fromkeys(nodes, number))
        inside = sorted({kernels[node] for node in nodes})
        if len(inside) > 1:
            what = "; ".join(" + ".join(predicted[i]["nodes"]) for i in inside)
            joined.append(f"one layer, predicted apart: `{name}`: {what}")
    parted = []
    for kernel in predicted:
        found = {}
        for node in kernel["nodes"]:
            if node in place:
                found.setdefault(place[node], []).append(node)
        if len(found) > 1:
            parted.append("predicted together, several layers: " + " | ".join(" + ".join(n) for n in found.values()))
    return joined + parted, len(place), len(kernels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("predicted", type=Path, help="what `squint check --target tensorrt --format json` wrote")
    parser.add_argument("layers", type=Path, help="what `trtexec --exportLayerInfo` wrote")
    arguments = parser.parse_args()
    predicted = json.loads(arguments.predicted.read_text())["kernels"]
    layers = json.loads(arguments.layers.read_text())["Layers"]
    differences, compared, known = compare(predicted, layers)
    print(*differences, sep="\n", end="\n" if differences else "")
    print(f"{compared} of {known} predicted nodes are named by the engine; {len(differences)} differences")
    if compared == 0:
        sys.exit("error: no name of a node is in both files: are they of the same model?")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
