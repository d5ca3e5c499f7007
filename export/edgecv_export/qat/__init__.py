"""Quantization-aware training: the float32 graph of a bundle as a PyTorch module that computes on a dialect's grid."""
