"""Studies: one folder each; what they share lies beside them."""
