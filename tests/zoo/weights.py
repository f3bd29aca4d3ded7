"""Random weights for zoo samples: nothing constant, nothing dead.

`randomise` replaces every constant parameter; `calibrate` then makes every layer pass its signal
on (layer-sequential unit variance), since a network whose output does not depend on a weight
cannot show that the weight was mishandled.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d,
         nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give numbers to every parameter that was left constant, and to batch-norm statistics."""
    for parameter in model.parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        first = parameter.flatten()[0].item()
        if parameter.eq(first).all():
            fresh = torch.rand(parameter.shape) + 0.5
            signed = 0.3 * torch.randn(parameter.shape)
            parameter.copy_(signed if first == 0 else first * fresh)
    for name, buffer in model.named_buffers():
        match name.rpartition(".")[2]:
            case "running_mean":
                buffer.copy_(0.3 * torch.randn(buffer.shape))
            case "running_var":
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
            case "num_batches_tracked":
                buffer.fill_(7)
    return model


@torch.no_grad()
def calibrate(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """One forward pass that scales each conv and linear, and moves each norm's statistics, to
    the values that arrive there (about: some noise is left in)."""
    handles = []
    for module in model.modules():
        if isinstance(module, NORMS) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(_to_statistics))
        elif isinstance(module, (nn.Linear, *CONVS)) and not is_parametrized(module):
            handles.append(module.register_forward_hook(_to_unit_variance))
    with warnings.catch_warnings():  # PyTorch says it once per process: better here than in a test
        warnings.filterwarnings("ignore", "LSTM with projections", UserWarning)
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()


def _moments(x: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    rows = x.double().movedim(channel, 0).flatten(1)
    return rows.mean(1), rows.var(1, unbiased=False)


def _to_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    mean, variance = _moments(inputs[0], 1)
    variance = variance.clamp(min=0.1 * variance.mean().item() + 1e-4)
    norm.running_mean.copy_(mean + 0.3 * variance.sqrt() * torch.randn(mean.shape))
    norm.running_var.copy_(variance * (torch.rand(mean.shape) + 0.5))


def _to_unit_variance(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Scale the layer so that its units vary by about 1; centre them where it has a bias."""
    channel = -1 if isinstance(layer, nn.Linear) else 1
    mean, variance = _moments(output, channel)
    scale = variance.mean().sqrt().item()
    if not 1e-6 < scale < 1e6:
        return output
    layer.weight.div_(scale)
    shape = [1] * output.ndim
    shape[channel] = -1
    if layer.bias is None:
        return output / scale
    shift = 0.3 * torch.randn(mean.shape) - mean / scale
    layer.bias.div_(scale).add_(shift)
    return output / scale + shift.view(shape).to(output.dtype)
