"""What tests of the X-ray share besides fixtures."""

import torch


def different(network):
    """Numbers in normalizations and biases that no two layers share: exporters store equal tensors once."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5 if name.endswith(("weight", "running_var")) else -0.1, 1.5)
