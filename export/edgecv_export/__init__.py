"""edgecv_export: from a PyTorch network to a proven bundle, and from float32 to int8."""
