"""Makes the exports of training tools for PyTorch that lie in this folder: a small network, trained for some steps.

usage: make_torch.py FOLDER [NAME...]

Each NAME.onnx comes with NAME.npz: inputs `x`, and what the tool's own network makes of them, `y`. `README.md` has the
versions of the tools that the files were made with.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

CHANNELS, SIZE, BATCH, STEPS = 16, 8, 4, 8


class Net(nn.Module):
    """A convolution with BatchNormalization, a residual one, an average, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x) + x)
        return self.last(self.pool(x).flatten(1))


def batch() -> torch.Tensor:
    """Random pictures."""
    return torch.randn(BATCH, CHANNELS, SIZE, SIZE)


def train(net: nn.Module) -> None:
    """Some steps, which also show quantizers what there is."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for _ in range(STEPS):
        loss = net(batch()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def write(name: str, folder: Path, net: nn.Module, export: Callable[[nn.Module, torch.Tensor, str], None]) -> None:
    """The file, and what the network computes."""
    x = batch()
    with torch.no_grad():
        y = net(x)
        export(net, x, str(folder / f"{name}.onnx"))
    np.savez_compressed(folder / f"{name}.npz", x=x.numpy(), y=getattr(y, "value", y).numpy())


def pt2e(folder: Path) -> None:
    """torchao's quantization of exported programs, in training, by the newer exporter."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(torch.export.export(Net().train(), (batch(),)).module(), quantizer)
    train(prepared)
    move_exported_model_to_eval(prepared)
    converted = convert_pt2e(prepared)
    move_exported_model_to_eval(converted)

    def export(net, x, path):
        made = torch.onnx.export(torch.export.export(net, (x,)), (x,), dynamo=True, opset_version=18).model_proto
        # Where each node was written, with the folders of this machine.
        for node in made.graph.node:
            del node.metadata_props[:]
        onnx.save(made, path)

    write("pt2e", folder, converted, export)


def fake_quantize(folder: Path) -> None:
    """Modules of `torch.ao.quantization` in training, by the older exporter."""
    from torch.ao import quantization as ao

    net = Net().train()
    # Exporters do not have the fused quantizers of newer versions.
    net.qconfig = ao.get_default_qat_qconfig("x86", version=0)
    net = ao.fuse_modules_qat(net, [["first", "norm"]])
    net = ao.prepare_qat(nn.Sequential(ao.QuantStub(net.qconfig), net))
    train(net)
    net.eval().apply(ao.disable_observer)

    def export(net, x, path):
        torch.onnx.export(net, (x,), path, dynamo=False, opset_version=17)

    write("torch-ao", folder, net, export)


def model_optimizer(folder: Path) -> None:
    """NVIDIA's Model Optimizer, the successor of pytorch-quantization."""
    import modelopt.torch.quantization as mtq

    net = mtq.quantize(Net().eval(), mtq.INT8_DEFAULT_CFG, lambda net: [net(batch()) for _ in range(STEPS)])
    net.train()
    train(net)
    net.eval()

    def export(net, x, path):
        torch.onnx.export(net, (x,), path, dynamo=False, opset_version=17)

    write("modelopt", folder, net, export)


def brevitas(name: str) -> Callable[[Path], None]:
    """Brevitas with weights of 4 bits and activations of 6, as QCDQ or as QONNX."""

    def make(folder: Path) -> None:
        import brevitas.nn as qnn
        from brevitas import export as to
        from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int32Bias, Uint8ActPerTensorFloat

        weights = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 4, "return_quant_tensor": True}
        positive = {"act_quant": Uint8ActPerTensorFloat, "bit_width": 6, "return_quant_tensor": True}

        class Quantized(nn.Module):
            def __init__(self):
                super().__init__()
                self.input = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
                self.first = qnn.QuantConv2d(CHANNELS, CHANNELS, 3, padding=1, bias_quant=Int32Bias, **weights)
                self.relu = qnn.QuantReLU(**positive)
                self.second = qnn.QuantConv2d(CHANNELS, CHANNELS, 1, bias_quant=Int32Bias, **weights)
                self.relu2 = qnn.QuantReLU(**positive)
                self.average = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat)
                self.last = qnn.QuantLinear(CHANNELS, CHANNELS, bias=True, **{**weights, "return_quant_tensor": False})

            def forward(self, x):
                x = self.relu(self.first(self.input(x)))
                x = self.relu2(self.second(x))
                x = getattr(x, "value", x).mean((2, 3))
                return self.last(self.average(x))

        net = Quantized().train()
        train(net)
        net.eval()
        export = {"brevitas-qcdq": to.export_onnx_qcdq, "brevitas-qonnx": to.export_qonnx}[name]
        write(name, folder, net, lambda net, x, path: export(net, args=x, export_path=path, dynamo=False))

    return make


MAKERS = {
    "pt2e": pt2e,
    "torch-ao": fake_quantize,
    "modelopt": model_optimizer,
    "brevitas-qcdq": brevitas("brevitas-qcdq"),
    "brevitas-qonnx": brevitas("brevitas-qonnx"),
}


def main() -> int:
    """Makes what is asked for, or all."""
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(MAKERS)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.manual_seed(0)
        MAKERS[name](folder)
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
