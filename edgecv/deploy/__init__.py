"""To a device: whether a bundle can run there (`check`), and bringing it there (`deploy`). No torch is needed."""
